//! Carries out what [`crate::metadata::formation`] decides: durable first, then told.

use slog::{info, warn};

use super::{Broker, peering::FORMATION};
use crate::{
    ids::{BootNumber, ClusterId, GroupId, NodeId},
    io::{Effects, Exit},
    metadata::formation::Step,
    replication::peer::Hello,
    time::Now,
};

impl Broker {
    pub(super) fn heard_hello(&mut self, from: NodeId, _boot: BootNumber, _cluster: Option<ClusterId>, hello: &Hello) {
        // A running peer that knew this node by another directory rejects our frames as those of an old process, so that
        // nobody could tell us what the cluster was formed with; but its hello says which directory it knew.
        if let Some(seen) = hello.seen.filter(|seen| seen.directory != self.identity.directory)
            && !hello.empty
        {
            self.exit.get_or_insert(Exit::Refused(format!(
                "node {} is known to node {from} with data directory {}, but this directory is {}: its disk was replaced or \
                 --data-dir names another place; start it with its own directory, or give the new one a node id of its own",
                self.config.node, seen.directory, self.identity.directory
            )));
            return;
        }
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

    /// This node's replica of the metadata group begins, if a crash came between the formation and its record.
    pub(super) fn join_metadata(&mut self, now: Now) {
        if self.replicas.contains_key(&GroupId::METADATA) {
            return;
        }
        if let Some(record) = self.formation.record() {
            let creation = record.creation();
            self.create_group(now, creation);
        }
    }
}
