"""A bank of durable accounts under random transfers, while everything around it is killed, paused, cut off and restarted."""
