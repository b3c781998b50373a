//! The participants: senders and receivers, behind the relay or not, connected and ready before anything is measured.
//!
//! Invariant: a pair's connections live until all pairs are done, so that closing one disturbs no measurement.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use msrp_client::{
    ClientError, Endpoint, ListenSecurity, Offer, Security, Suite, Target, server_identity_offering,
};
use msrp_proto::uri::MsrpUri;
use msrp_relay_core::SessionId;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpListener;

use super::line::Line;
use super::login::{Granted, authenticate};
use super::meter::Meter;
use super::web::Door;
use crate::options::{ConnectionArguments, Login, OutputArguments, RelayArguments};
use crate::outcome::Failure;

/// How often a sender dials again to get the wanted core: chance fails this often once in 2^64 runs.
const ATTEMPTS_MAX: usize = 64;

/// What all modes share.
#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) relay: RelayArguments,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    /// Tell the CPU time of this process, the relay; may be repeated, and then it is their sum
    #[arg(long, value_name = "PID", help_heading = "Measuring")]
    pub(crate) relay_pid: Vec<u32>,
    /// Agree on this with every peer: TLS 1.3 with one suite, X25519 and full handshakes; or on anything
    #[arg(long, value_name = "SUITE", default_value = "aes128", help_heading = "Measuring")]
    pub(crate) tls: TlsOffer,
}

/// `--tls`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum TlsOffer {
    Aes128,
    Aes256,
    Chacha20,
    Any,
}

impl From<TlsOffer> for Offer {
    fn from(offer: TlsOffer) -> Self {
        match offer {
            TlsOffer::Aes128 => Self::Only(Suite::Aes128),
            TlsOffer::Aes256 => Self::Only(Suite::Aes256),
            TlsOffer::Chacha20 => Self::Only(Suite::ChaCha20),
            TlsOffer::Any => Self::Everything,
        }
    }
}

/// Who sends to whom.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sessions")]
pub(crate) struct PairArguments {
    /// How many senders, each with a receiver of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) sessions: u16,
    /// Who is behind the relay
    #[arg(long, value_name = "WHICH", default_value = "one")]
    pub(crate) topology: Topology,
    /// On which of the relay's cores sender and receiver are (msrprelay only, with --topology both)
    #[arg(long, value_name = "WHICH", default_value = "any")]
    pub(crate) pairs: Pairs,
    /// No relay but a byte proxy, TLS to TLS: connect here, and await its connections at --listen
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["relays", "users", "pairs", "topology"], requires = "listen")]
    pub(crate) through: Option<Target>,
    /// Where receivers that are behind nothing await connections (through, dialled)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The certificate shown there
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
}

/// `--topology`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topology {
    /// The receiver; the sender connects to the relay without authentication
    One,
    /// The sender; the relay dials the receiver, which is on this machine
    Dialled,
    /// Both
    Both,
}

/// `--pairs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pairs {
    /// As chance has it
    Any,
    /// On the same core
    Local,
    /// On different cores
    Split,
}

/// A sender, ready to send.
pub(crate) struct Sender {
    pub(crate) line: Line,
    pub(crate) to_path: String,
    pub(crate) from_path: String,
}

/// A receiver.
pub(crate) struct Receiver {
    pub(crate) at: Place,
    pub(crate) own_uri: String,
}

/// Where a receiver is.
pub(crate) enum Place {
    Connected(Box<Line>),
    /// Will be dialled when the first request comes.
    Awaiting(TcpListener),
}

/// Whom to connect to and how.
pub(crate) struct Scene {
    pub(crate) login: Option<Login>,
    address: SocketAddr,
    client: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    server: Option<Arc<ServerConfig>>,
    /// Where the relay speaks WebSocket.
    door: Option<Door>,
    limit: Duration,
}

impl Scene {
    /// Checks everything that can go wrong before the first connection.
    pub(crate) fn new(common: &Common, pairs: Option<&PairArguments>) -> Result<Self, Failure> {
        let connection = &common.connection;
        let through = pairs.and_then(|pairs| pairs.through.as_ref());
        // Fails before the connections are made.
        Meter::of(&common.relay_pid)?;
        // All load goes to one relay: the user names it, the DNS does not.
        match common.relay.relays.len() {
            0 if !common.relay.users.is_empty() => {
                return Err(Failure::Usage("--user needs --relay".to_owned()));
            }
            0 | 1 => {}
            _ => return Err(Failure::Usage("one --relay only: the load is for that one".to_owned())),
        }
        let login = common.relay.login(connection)?;
        let Some(target) = through.or_else(|| common.relay.relays.first()) else {
            return Err(Failure::Usage("--relay, or --through for a byte proxy, is needed".to_owned()));
        };
        if through.is_none() && login.is_none() {
            return Err(Failure::Usage("--user is needed".to_owned()));
        }
        let offer = common.tls.into();
        let client = match connection.plain {
            true => None,
            false => match connection.tls_offering(offer)? {
                Security::Plain => None,
                Security::Tls { config, name } => {
                    let own = || ServerName::try_from(target.host.clone());
                    let name = name.map_or_else(own, Ok).map_err(|_| {
                        Failure::Usage(format!("{}: not a name that a certificate can cover", target.host))
                    })?;
                    Some((config, name))
                }
            },
        };
        let server = pairs.map(|pairs| server(pairs, connection, offer)).transpose()?.flatten();
        let door = target.web.clone().map(|path| Door { host: target.to_string(), path });
        let is_open_to_all = pairs.is_some_and(|pairs| pairs.topology == Topology::One);
        if door.is_some() && is_open_to_all {
            let message =
                "--topology one: by WebSocket every client authenticates (RFC 7977, 5.3.1); write both";
            return Err(Failure::Usage(message.to_owned()));
        }
        Ok(Self { login, address: resolve(target)?, client, server, door, limit: connection.connect_timeout })
    }

    /// A connection, from this address if one is given.
    pub(crate) async fn connect(&self, from: Option<IpAddr>) -> Result<Line, Failure> {
        Line::connect(self.address, from, self.client.clone(), self.door.as_ref(), self.limit).await
    }

    /// A connection and a session on it.
    pub(crate) async fn client(&self, from: Option<IpAddr>) -> Result<(Line, Granted), Failure> {
        let mut line = self.connect(from).await?;
        let Some(login) = &self.login else {
            return Err(Failure::Usage("--user is needed".to_owned()));
        };
        let granted = authenticate(&mut line, login).await?;
        Ok((line, granted))
    }

    /// Accepts a connection.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> Result<Line, Failure> {
        let failed = |source| ClientError::Listen { address: "the listener".to_owned(), source };
        let (stream, _) = listener.accept().await.map_err(failed)?;
        Line::accepted(stream, self.server.clone(), self.limit).await
    }

    /// All pairs.
    pub(crate) async fn pairs(&self, arguments: &PairArguments) -> Result<Vec<(Sender, Receiver)>, Failure> {
        let mut pairs = Vec::new();
        let listener = match &arguments.through {
            Some(_) => Some(listen(arguments).await?),
            None => None,
        };
        for _ in 0..arguments.sessions {
            pairs.push(match (&listener, arguments.topology) {
                (Some(listener), _) => self.pair_through_proxy(listener).await?,
                (None, Topology::One) => self.pair_with_receiver_behind().await?,
                (None, Topology::Dialled) => self.pair_with_sender_behind(arguments).await?,
                (None, Topology::Both) => self.pair_behind(arguments.pairs).await?,
            });
        }
        Ok(pairs)
    }

    async fn pair_through_proxy(&self, listener: &TcpListener) -> Result<(Sender, Receiver), Failure> {
        // A proxy may dial when the connection comes, or only after the handshake.
        let (line, receiver) = tokio::join!(self.connect(None), self.accept(listener));
        let (line, receiver) = (line?, receiver?);
        let from_path = line.mint_uri()?;
        let own_uri = receiver.mint_uri()?;
        let sender = Sender { line, to_path: own_uri.clone(), from_path };
        Ok((sender, Receiver { at: Place::Connected(Box::new(receiver)), own_uri }))
    }

    async fn pair_with_receiver_behind(&self) -> Result<(Sender, Receiver), Failure> {
        let (receiver, granted) = self.client(None).await?;
        let line = self.connect(None).await?;
        let from_path = line.mint_uri()?;
        let sender = Sender { line, to_path: granted.path_for_peers(), from_path };
        Ok((sender, Receiver { at: Place::Connected(Box::new(receiver)), own_uri: granted.own_uri }))
    }

    async fn pair_with_sender_behind(
        &self,
        arguments: &PairArguments,
    ) -> Result<(Sender, Receiver), Failure> {
        let listener = listen(arguments).await?;
        let address = listener.local_addr().map_err(ClientError::Io)?;
        let own_uri = Endpoint::mint_uri(address, self.server.is_some());
        let (line, granted) = self.client(None).await?;
        let sender = Sender { line, to_path: granted.to_path(&own_uri), from_path: granted.own_uri };
        Ok((sender, Receiver { at: Place::Awaiting(listener), own_uri }))
    }

    async fn pair_behind(&self, wanted: Pairs) -> Result<(Sender, Receiver), Failure> {
        let (receiver, to) = self.client(None).await?;
        for _ in 0..ATTEMPTS_MAX {
            let (line, from) = self.client(None).await?;
            let fits = match wanted {
                Pairs::Any => true,
                Pairs::Local => home(&to)? == home(&from)?,
                Pairs::Split => home(&to)? != home(&from)?,
            };
            if fits {
                let sender =
                    Sender { line, to_path: from.to_path(&to.path_for_peers()), from_path: from.own_uri };
                return Ok((
                    sender,
                    Receiver { at: Place::Connected(Box::new(receiver)), own_uri: to.own_uri },
                ));
            }
            line.close().await?;
        }
        Err(Failure::Usage("--pairs: the relay gives no sessions on such cores; has it several?".to_owned()))
    }
}

/// The core of an msrprelay that the session is on.
fn home(granted: &Granted) -> Result<u16, Failure> {
    granted
        .use_path
        .first()
        .and_then(|uri| MsrpUri::parse(uri.as_bytes()).ok())
        .and_then(|uri| SessionId::parse(uri.session_id()?))
        .map(|id| id.home().index)
        .ok_or_else(|| Failure::Usage("--pairs: the relay's URIs do not tell a core".to_owned()))
}

async fn listen(arguments: &PairArguments) -> Result<TcpListener, Failure> {
    let address = arguments.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
    let failed = |source| ClientError::Listen { address: address.to_string(), source };
    Ok(TcpListener::bind(address).await.map_err(failed)?)
}

fn server(
    pairs: &PairArguments,
    connection: &ConnectionArguments,
    offer: Offer,
) -> Result<Option<Arc<ServerConfig>>, Failure> {
    let listens = pairs.through.is_some() || pairs.topology == Topology::Dialled;
    match (&pairs.certificate, &pairs.key) {
        _ if !listens || connection.plain => Ok(None),
        (Some(certificate), Some(key)) => match server_identity_offering(offer, certificate, key)? {
            ListenSecurity::Tls(config) => Ok(Some(config)),
            ListenSecurity::Plain => Ok(None),
        },
        _ => Err(Failure::Usage(
            "--certificate and --key are needed for receivers that are dialled".to_owned(),
        )),
    }
}

fn resolve(target: &Target) -> Result<SocketAddr, Failure> {
    let failed = |source| ClientError::Resolve { host: target.host.clone(), source };
    let mut addresses = (target.host.as_str(), target.port).to_socket_addrs().map_err(failed)?;
    addresses.next().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()).into())
}
