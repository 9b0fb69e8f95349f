//! The DNS server on the cluster's DNS address.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode,
};
use hickory_server::proto::rr::{Name, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::seq::SliceRandom;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use super::super::reflector::Cache;
use super::super::{Cidr, NetError};
use super::forward::{ForwardError, Forwarder};
use super::zone::{Answer, Zone};

const PORT: u16 = 53;
/// A TCP client that says nothing for this long is let go.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers waiting for one TCP client.
const TCP_QUEUE: usize = 64;
/// The largest UDP answer, as common resolvers have it: fits an unfragmented packet everywhere.
const UDP_PAYLOAD: u16 = 1232;
const GATHER: Duration = Duration::from_millis(20);

type SharedZone = Arc<ArcSwapOption<Zone>>;

/// Opens the sockets; called once the address is on a link.
pub(in crate::net) async fn bind(address: Ipv4Addr) -> Result<(UdpSocket, TcpListener), NetError> {
    let what =
        |source: io::Error| NetError::Io { what: format!("cannot serve DNS on {address}:{PORT}"), source };
    let udp = UdpSocket::bind((address, PORT)).await.map_err(what)?;
    let tcp = TcpListener::bind((address, PORT)).await.map_err(what)?;
    Ok((udp, tcp))
}

/// Serves until `shutdown`. Before the caches are filled, names of the cluster get SERVFAIL, so that clients ask again.
pub(in crate::net) async fn follow(
    sockets: (UdpSocket, TcpListener),
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    (domain, own, address): (String, Vec<Cidr>, Ipv4Addr),
    shutdown: CancellationToken,
) {
    let zone = SharedZone::default();
    let handler =
        Handler { zone: Arc::clone(&zone), domain: domain.clone(), forwarder: Forwarder::new(address) };
    let mut server = Server::new(handler);
    server.register_socket(sockets.0);
    server.register_listener(sockets.1, TCP_IDLE, TCP_QUEUE);

    let keep = async {
        let mut versions = (services.version(), slices.version());
        if versions.0.wait_for(|version| *version > 0).await.is_err()
            || versions.1.wait_for(|version| *version > 0).await.is_err()
        {
            return;
        }
        loop {
            versions.0.mark_unchanged();
            versions.1.mark_unchanged();
            zone.store(Some(Arc::new(Zone::build(&domain, own.clone(), &services.all(), &slices.all()))));
            tokio::select! {
                changed = versions.0.changed() => if changed.is_err() { return },
                changed = versions.1.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(GATHER).await;
        }
    };
    tokio::select! {
        () = keep => {}
        ended = server.block_until_done() => {
            tracing::error!(?ended, "the DNS server ended");
            return;
        }
        () = shutdown.cancelled() => {}
    }
    if let Err(error) = server.shutdown_gracefully().await {
        tracing::debug!(%error, "DNS server shut down");
    }
}

struct Handler {
    zone: SharedZone,
    domain: String,
    forwarder: Forwarder,
}

/// A response without its question.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Option<Record>,
}

impl Reply {
    fn failure(code: ResponseCode) -> Reply {
        Reply { code, ..Reply::default() }
    }

    fn forwarded(answer: Message) -> Reply {
        let mut answer = answer;
        let soa = answer.authorities.iter().find(|record| record.record_type() == RecordType::SOA).cloned();
        Reply {
            code: answer.metadata.response_code,
            authoritative: false,
            answers: std::mem::take(&mut answer.answers),
            soa,
        }
    }
}

impl Handler {
    async fn reply(&self, name: &Name, record_type: RecordType) -> Reply {
        let text = name.to_ascii();
        let Some(zone) = self.zone.load_full() else {
            let bare = text.trim_end_matches('.').to_ascii_lowercase();
            let ours = bare == self.domain || bare.ends_with(&format!(".{}", self.domain));
            return if ours {
                Reply::failure(ResponseCode::ServFail)
            } else {
                self.elsewhere(name, record_type).await
            };
        };
        match zone.answer(&text, record_type) {
            Answer::Records(mut answers) => {
                answers.shuffle(&mut rand::rng());
                Reply { authoritative: true, answers, ..Reply::default() }
            }
            Answer::NoData => Reply { authoritative: true, soa: zone.soa(), ..Reply::default() },
            Answer::NoName => Reply {
                code: ResponseCode::NXDomain,
                authoritative: true,
                soa: zone.soa(),
                ..Reply::default()
            },
            Answer::Alias(record, target) => {
                let mut answers = vec![*record];
                if record_type != RecordType::CNAME {
                    answers.extend(self.chase(&zone, &target, record_type).await);
                }
                Reply { authoritative: true, answers, ..Reply::default() }
            }
            Answer::Elsewhere => self.elsewhere(name, record_type).await,
        }
    }

    /// What an alias leads to; nothing where that cannot be found out, and the client may ask itself. Aliases of aliases
    /// within the cluster are not followed, so that none can run in a circle.
    async fn chase(&self, zone: &Zone, target: &str, record_type: RecordType) -> Vec<Record> {
        match zone.answer(target, record_type) {
            Answer::Records(records) => records,
            Answer::Alias(record, _) => vec![*record],
            Answer::NoData | Answer::NoName => Vec::new(),
            Answer::Elsewhere => match Name::from_ascii(format!("{target}.")) {
                Ok(name) => {
                    self.forwarder.ask(&name, record_type).await.map(|m| m.answers).unwrap_or_default()
                }
                Err(_) => Vec::new(),
            },
        }
    }

    async fn elsewhere(&self, name: &Name, record_type: RecordType) -> Reply {
        match self.forwarder.ask(name, record_type).await {
            Ok(answer) => Reply::forwarded(answer),
            Err(ForwardError::None) => Reply::failure(ResponseCode::Refused),
            Err(ForwardError::Busy | ForwardError::Silent) => Reply::failure(ResponseCode::ServFail),
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let reply = match request.request_info() {
            Err(_) => Reply::failure(ResponseCode::FormErr),
            Ok(_) if request.metadata.op_code != OpCode::Query => Reply::failure(ResponseCode::NotImp),
            Ok(info) => self.reply(info.query.original().name(), info.query.query_type()).await,
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [Record; 0] = [];
        let message = builder.build(metadata, &reply.answers, none.iter(), reply.soa.iter(), none.iter());
        response.send_response(message).await.unwrap_or_else(|error| {
            tracing::debug!(%error, client = %request.src(), "cannot send a DNS answer");
            let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}
