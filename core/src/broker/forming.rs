//! Carries out what [`crate::metadata::formation`] decides: durable first, then told.

use slog::{info, warn};

use super::{Broker, peering::FORMATION};
use crate::{
    ids::{GroupId, NodeId},
    io::{Effects, Exit},
    metadata::formation::Step,
    replication::peer::Hello,
    time::Now,
};

impl Broker {
    pub(super) fn heard_hello(&mut self, from: NodeId, hello: &Hello) {
        self.formation.hello(from, hello.configuration, hello.empty);
    }

    pub(super) fn heard_formation(&mut self, from: NodeId, bytes: &[u8]) {
        if let Err(error) = self.formation.message(from, bytes) {
            warn!(self.logger, "a message about formation cannot be read"; "from" => from.0, "reason" => %error);
        }
    }

    pub(super) fn advance_formation(&mut self, now: Now, effects: &mut Effects) {
        self.keeper.poll(effects, &mut self.ids);
        if self.forming && self.keeper.is_durable() {
            self.forming = false;
            self.formation.durable();
            self.identity = self.keeper.identity().expect("it was durable since the start").clone();
            let cluster = self.identity.cluster.expect("it was just set");
            info!(self.logger, "the cluster is formed"; "cluster" => %cluster);
            self.peers.set_cluster(cluster);
            self.join_metadata(now);
        }
        for step in self.formation.poll(now) {
            match step {
                Step::MakeDurable(record) => {
                    self.keeper.set_cluster(record.cluster, record.encode());
                    self.forming = true;
                    self.keeper.poll(effects, &mut self.ids);
                }
                Step::Send { to, bytes } => {
                    // Lost messages are asked for again.
                    let _ = self.peers.send_control(now, to, FORMATION, bytes);
                }
                Step::Refuse(sentence) => {
                    self.exit.get_or_insert(Exit::Refused(sentence));
                }
                Step::Warn(sentence) => warn!(self.logger, "{}", sentence),
            }
        }
    }

    /// This node's replica of the metadata group begins, if the cluster was formed with this directory. One that takes
    /// the place of another is told its replica when it registers.
    pub(super) fn join_metadata(&mut self, now: Now) {
        if self.replicas.contains_key(&GroupId::METADATA) {
            return;
        }
        if let Some(record) = self.formation.record() {
            let creation = record.creation();
            if let Some(replica) = creation.replica_on(self.config.node, self.identity.directory) {
                self.create_group(now, creation, replica);
            }
        }
    }
}
