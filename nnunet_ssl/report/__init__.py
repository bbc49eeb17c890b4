"""What a run has come to: tables as CSV, and one self-contained HTML page with figures."""
