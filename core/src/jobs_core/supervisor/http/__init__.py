"""The HTTP child: probes and metrics, and the server that answers."""
