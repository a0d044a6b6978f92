//! Stories about whole nodes, told exactly; the simulator explores the rest at random.

mod checkpoints;
mod client;
mod copies;
mod disk;
mod hostile;
mod load;
mod repair;
mod requests;
mod restarts;
mod slowdown;
mod topics;
mod transfer;
mod world;
