"""What operators ask and do, without a terminal: shared by the commands of `jobsctl` and by the dashboard."""
