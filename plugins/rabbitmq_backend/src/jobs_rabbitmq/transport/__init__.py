"""The AMQP connection beside pika's own adapters: one that a single thread drives when it has the time."""
