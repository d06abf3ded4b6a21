"""Where steps run. An executor launches, watches, adopts and ends processes; it knows no ledger, no key and no step's code."""
