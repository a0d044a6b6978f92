//! Record batches of format 2.
