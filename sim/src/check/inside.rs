//! tbd
use crate::{core::NodeView, failure::Failure};
#[derive(Debug)]
pub struct Inside {}
impl Inside {
    pub fn new(_nodes: usize) -> Self {
        Self {}
    }
    pub fn node_started(&mut self, _node: usize) {}
    pub fn look(&mut self, _node: usize, _view: &NodeView) -> Result<(), Failure> {
        Ok(())
    }
}
