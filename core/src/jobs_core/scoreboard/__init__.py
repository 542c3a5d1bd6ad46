"""What every process of one installation knows of the others: one file a worker, and a few small JSON files.

Workers write without a system call a job; whoever wants to know reads, and disturbs nobody.
"""
