"""Pure functions of an AuditReport."""
