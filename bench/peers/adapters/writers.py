"""Writers that commit one row a transaction: python -m writers THREADS SECONDS [enqueue].

With `enqueue`, each transaction also enqueues a no-op job. Prints a line when all writers are connected, begins at a line of
standard input, and prints how many commits the writers made.
"""

import sys
import threading
import time

import common
import psycopg
from jobs_app import noop


class Writers:
    def __init__(self, count, seconds, enqueues):
        self.commits, self.seconds, self.enqueues = [0] * count, seconds, enqueues
        self.ready, self.begin = threading.Barrier(count + 1), threading.Event()

    def write(self, place):
        with psycopg.connect(common.BROKER) as connection:
            if self.enqueues:  # opens what it needs
                noop.using(transaction=connection).enqueue(-1)
                connection.rollback()
            self.ready.wait()
            self.begin.wait()
            end = time.monotonic() + self.seconds
            while time.monotonic() < end:
                connection.execute("INSERT INTO orders (customer) VALUES (%s)", (place,))
                if self.enqueues:
                    noop.using(transaction=connection).enqueue(place)
                connection.commit()
                self.commits[place] += 1


if __name__ == "__main__":
    writers = Writers(int(sys.argv[1]), float(sys.argv[2]), "enqueue" in sys.argv[3:])
    threads = [threading.Thread(target=writers.write, args=(place,)) for place in range(len(writers.commits))]
    for thread in threads:
        thread.start()
    writers.ready.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    writers.begin.set()
    for thread in threads:
        thread.join()
    print(sum(writers.commits))
