//! Stories about whole nodes, told exactly; the simulator explores the rest at random.

mod client;
mod disk;
mod requests;
mod restarts;
mod topics;
mod world;
