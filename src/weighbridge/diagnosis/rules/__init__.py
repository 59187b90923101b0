"""One file per rule; see weighbridge.diagnosis.registry."""
