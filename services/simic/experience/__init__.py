"""The experience store: every transition once, written by ingest, read by learners and people."""
