"""The control plane: a pure state machine (`state`), the durable actor around it (`actor`), and its standby in every node
(`standby`)."""
