"""What people see while things happen: progress on stderr, tables on stdout."""
