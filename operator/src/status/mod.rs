//! What users read back: conditions, printer columns, events.
