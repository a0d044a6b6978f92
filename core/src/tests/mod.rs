//! Stories about whole nodes, told exactly; the simulator explores the rest at random.

mod checkpoints;
mod client;
mod copies;
mod damage;
mod disk;
mod hostile;
mod liveness;
mod load;
mod quarantine;
mod recover;
mod requests;
mod restarts;
mod segment_repair;
mod slowdown;
mod topics;
mod transfer;
mod wiped;
mod world;
