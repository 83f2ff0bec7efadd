"""The Rust core through its Python face: both sides of the shared memory, in one process and across killed ones."""
