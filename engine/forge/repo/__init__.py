"""Git: commits, trees and blobs as values. Reads only; the ledger's writes are the ledger's own."""
