//! Cuts the bytes of a connection into frames: four bytes of length, then as many bytes.
