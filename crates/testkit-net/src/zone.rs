//! A name server on loopback, for tests whose clients and relays find each other by name.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use hickory_resolver::proto::op::{Message, MessageType};
use hickory_resolver::proto::rr::rdata::{SOA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::txt::Parser;
use hickory_server::Server as NameServer;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::sync::oneshot;

/// An SRV record.
pub fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

/// A name server for one zone, until it is dropped.
pub struct Zone {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Zone {
    /// Serves a zone file.
    pub fn of_file(text: String) -> Self {
        Self::serve(move || {
            let (origin, records) = Parser::new(text, None, None).parse().unwrap();
            let zone = InMemoryZoneHandler::new(origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny);
            (origin, zone.unwrap())
        })
    }

    /// Serves records; all names are absolute.
    pub fn of_records(origin: &'static str, records: Vec<(String, RData)>) -> Self {
        Self::serve(move || {
            let origin = Name::from_ascii(origin).unwrap();
            let mut zone = InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
            let soa = SOA::new(origin.clone(), origin.clone(), 1, 60, 60, 60, 60);
            zone.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 1);
            for (name, data) in records {
                zone.upsert_mut(Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data), 1);
            }
            (origin, zone)
        })
    }

    fn serve(zone: impl FnOnce() -> (Name, InMemoryZoneHandler) + Send + 'static) -> Self {
        let (sender, ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let body = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            runtime.block_on(async {
                let (origin, zone) = zone();
                let mut catalog = Catalog::new();
                catalog.upsert(origin.into(), vec![Arc::new(zone)]);
                let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                sender.send(socket.local_addr().unwrap()).unwrap();
                let mut server = NameServer::new(catalog);
                server.register_socket(socket);
                // Dropped, never used.
                let _ = stopped.await;
            });
        };
        let thread = std::thread::spawn(body);
        Self { address: ready.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Zone {
    /// From here on the server does not answer.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        // The thread has printed its own failure.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.stop();
    }
}

// -- a server that answers for one zone alone --------------------------------------------------------

/// A name server to which every name is 127.0.0.1, except those in `silent.test`: it never answers for these.
pub struct HalfSilent {
    pub address: SocketAddr,
    /// Names of all zones that it was asked for, once per question.
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl HalfSilent {
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            let mut query = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut query).unwrap();
                // `drop` sends nothing.
                if length == 0 {
                    return;
                }
                let mut question = Message::from_vec(&query[..length]).unwrap();
                let asked = question.queries.first().unwrap().clone();
                let name = asked.name().to_ascii();
                noted.lock().unwrap().push(name.clone());
                if name.ends_with(".silent.test.") {
                    continue;
                }
                question.metadata.message_type = MessageType::Response;
                if asked.query_type() == RecordType::A {
                    let local = RData::A(Ipv4Addr::LOCALHOST.into());
                    question.answers.push(Record::from_rdata(asked.name().clone(), 60, local));
                }
                socket.send_to(&question.to_vec().unwrap(), from).unwrap();
            }
        });
        Self { address, asked, thread: Some(thread) }
    }

    /// How many different names it has been asked for.
    pub fn names_asked(&self) -> usize {
        self.asked.lock().unwrap().iter().collect::<HashSet<_>>().len()
    }
}

impl Drop for HalfSilent {
    fn drop(&mut self) {
        let stopper = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stopper.send_to(&[], self.address).unwrap();
        // The thread has printed its own failure.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
