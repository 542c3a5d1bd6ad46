"""The state that the processes of one installation share: one file per worker, and a few small JSON files.

Workers write without a system call per job; readers do not disturb them.
"""
