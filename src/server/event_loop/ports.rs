//! The sockets that listen: bound before anything else is done.

use super::{HTTP, LISTEN};
use crate::server::http::HttpPort;
use crate::server::{ServerError, peers, process};
use mio::net::TcpListener;
use mio::{Interest, Poll, Token};
use std::net::SocketAddr;

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub listen: SocketAddr,
    /// For other nodes.
    pub peer: SocketAddr,
    /// For pages; none when they are off.
    pub http: Option<SocketAddr>,
}

/// The sockets that are open before the node is.
pub struct Ports {
    /// The client port.
    pub listener: TcpListener,
    /// The peer port; [`Peers`] takes it.
    pub peer: TcpListener,
    /// The HTTP port.
    pub http: Option<HttpPort>,
}

impl Ports {
    /// Binds all, so that a port in use is found before the data directory is touched.
    pub fn bind(poll: &Poll, at: Addresses) -> Result<Self, ServerError> {
        let bind = |what, address| move |source| ServerError::Bind { what, address, source };
        let open = |what, address, token| -> Result<TcpListener, ServerError> {
            let mut listener = TcpListener::bind(address).map_err(bind(what, address))?;
            process::deepen_backlog(&listener);
            poll.registry().register(&mut listener, Token(token), Interest::READABLE)?;
            Ok(listener)
        };
        let listener = open("client port (--listen)", at.listen, LISTEN)?;
        let peer = open("peer port (--peer-listen)", at.peer, peers::LISTEN)?;
        let http = match at.http {
            None => None,
            Some(address) => Some(
                HttpPort::bind(address, HTTP, poll.registry())
                    .map_err(bind("HTTP port (--http)", address))?,
            ),
        };
        Ok(Self { listener, peer, http })
    }
}
