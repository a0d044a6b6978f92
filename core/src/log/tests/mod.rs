//! Tests of the log as a whole, on a disk that loses what was not synced.

mod crash;
mod damage;
mod disk;
mod format;
mod identity;
mod machine;
mod offline;
mod ring;
