//! A node that answers every request for logs with two lines, and every exec with its own command and input.

use kontiki_proto::client::{Client, ClientConfig};
use kontiki_proto::pb::node_command::Command;
use kontiki_proto::pb::node_frame::Frame;
use kontiki_proto::pb::server_frame::Frame as FromServer;
use kontiki_proto::pb::{NodeFrame, NodeHello, RegisterRequest};
use kontiki_proto::status::Status;
use tokio_stream::wrappers::ReceiverStream;

use super::{Harness, Issued};

pub fn client(harness: &Harness, identity: &Issued) -> Client {
    let config = ClientConfig::new([harness.address.to_string()], &harness.ca.cert_pem)
        .with_identity(&identity.cert_pem, &identity.key_pem);
    Client::new(config).expect("a client")
}

/// A node's identity, got the way an agent gets it.
pub async fn register(harness: &Harness, name: &str) -> Issued {
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
    let request = RegisterRequest { node_name: name.into(), csr_pem: csr.pem().expect("PEM") };
    let bootstrap = harness.ca.client("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let reply = client(harness, &bootstrap).nodes().register(request).await.expect("registered").into_inner();
    assert_eq!(reply.ca_pem, harness.ca.cert_pem);
    Issued { cert_pem: reply.certificate_pem, key_pem: key.serialize_pem() }
}

/// Registers and listens until the handle is aborted.
pub async fn start(harness: &Harness, name: &str) -> tokio::task::JoinHandle<()> {
    let client = client(harness, &register(harness, name).await);
    let (hellos, stream) = tokio::sync::mpsc::channel(1);
    hellos.send(NodeHello { node_name: name.into() }).await.expect("sent");
    let mut commands =
        client.nodes().listen(ReceiverStream::new(stream)).await.expect("listening").into_inner();
    let node = name.to_string();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(10));
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    if hellos.send(NodeHello { node_name: node.clone() }).await.is_err() {
                        return;
                    }
                }
                command = commands.message() => {
                    let Ok(Some(command)) = command else { return };
                    let client = client.clone();
                    let asked = command.command.expect("a command");
                    tokio::spawn(async move { serve(&client, command.stream_id, asked).await });
                }
            }
        }
    })
}

async fn serve(client: &Client, stream_id: u64, command: Command) {
    let (said, echoes) = match command {
        Command::Logs(logs) => {
            let request = logs.request.expect("a request");
            (format!("{} of {}\nsecond\n", request.container, request.pod), false)
        }
        Command::Exec(exec) => {
            let start = exec.start.expect("a start");
            (start.command.join(" "), start.stdin)
        }
        Command::PortForward(_) => (String::new(), false),
    };
    let (frames, stream) = tokio::sync::mpsc::channel(4);
    let send = async |frame| frames.send(NodeFrame { frame: Some(frame) }).await.expect("sent");
    send(Frame::StreamId(stream_id)).await;
    send(Frame::Stdout(said.into_bytes().into())).await;
    let mut input = client.nodes().serve(ReceiverStream::new(stream)).await.expect("served").into_inner();
    while echoes && let Ok(Some(frame)) = input.message().await {
        match frame.frame {
            Some(FromServer::Stdin(data)) => send(Frame::Stdout(data)).await,
            Some(FromServer::StdinClosed(_)) => break,
            Some(FromServer::Resize(_)) | None => {}
        }
    }
    send(Frame::Status(Status::success().to_json().into())).await;
    drop(frames);
    // Hanging up first would reset the call, and what is still on its way would be lost.
    while let Ok(Some(_)) = input.message().await {}
}
