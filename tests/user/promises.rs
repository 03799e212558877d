//! Every promise of the README and of `docs/operations.md` has a test beside it.
