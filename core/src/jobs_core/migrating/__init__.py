"""What an application of another job system would be here: read from that application, printed to be copied, never written."""
