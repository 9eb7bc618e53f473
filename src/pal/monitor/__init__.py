"""What people see: metrics, terminal view, report."""
