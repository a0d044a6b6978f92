//! The machine of one client: the client and the sockets it named.

use std::collections::BTreeMap;

use crate::{
    client::{Client, ClientInput, ClientSocket},
    network::{Arrival, Socket},
};

pub(crate) struct ClientSite {
    pub(crate) client: Box<dyn Client>,
    sockets: BTreeMap<ClientSocket, Socket>,
    names: BTreeMap<Socket, ClientSocket>,
}

impl ClientSite {
    pub(crate) fn new(client: Box<dyn Client>) -> Self {
        Self { client, sockets: BTreeMap::new(), names: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, name: ClientSocket, socket: Socket) {
        assert!(self.sockets.insert(name, socket).is_none(), "a client never uses the name of a socket twice");
        self.names.insert(socket, name);
    }

    pub(crate) fn socket(&self, name: ClientSocket) -> Option<Socket> {
        self.sockets.get(&name).copied()
    }

    pub(crate) fn remove(&mut self, name: ClientSocket) -> Option<Socket> {
        let socket = self.sockets.remove(&name)?;
        self.names.remove(&socket);
        Some(socket)
    }

    /// What an arrival is to the client, if it is anything.
    pub(crate) fn translate(&mut self, arrival: Arrival) -> Option<ClientInput> {
        match arrival {
            Arrival::Connected { socket, .. } => Some(ClientInput::Connected { socket: *self.names.get(&socket)? }),
            Arrival::Frame { socket, frame, .. } => {
                Some(ClientInput::Frame { socket: *self.names.get(&socket)?, frame })
            }
            Arrival::Down { socket, .. } => {
                let name = *self.names.get(&socket)?;
                self.remove(name);
                Some(ClientInput::Down { socket: name })
            }
            Arrival::Accepted { .. } => unreachable!("nobody dials a client"),
            // A client waits for answers, not for its socket.
            Arrival::Written { .. } => None,
        }
    }
}
