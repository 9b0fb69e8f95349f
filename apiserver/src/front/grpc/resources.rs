//! Resources: every verb on every row. PodStreams: logs and exec.

use futures::{StreamExt, stream};
use kontiki_proto::api::{GetOptions, WriteOptions};
use kontiki_proto::pb;
use kontiki_proto::pb::exec_input::Input;
use kontiki_proto::pb::exec_output::Output;
use kontiki_proto::pb::node_frame::Frame;
use kontiki_proto::pb::pod_streams_server::PodStreams;
use kontiki_proto::pb::resources_server::Resources;
use kontiki_proto::pb::server_frame::Frame as ToNode;
use kontiki_proto::status::Status;
use kontiki_proto::{Target, api::Shape, wire};
use tonic::{Request, Response};

use super::{Front, Streaming};
use crate::chain;
use crate::front::well_known::VERSION;
use crate::request::{self, Action, Answer, Body};
use crate::streams::{Session, exec, logs};
use crate::table::Include;
use crate::verb::shape;

type Reply<T> = Result<Response<T>, tonic::Status>;

impl Front {
    async fn run<T>(
        &self,
        request: &Request<T>,
        target: Target,
        action: Action,
    ) -> Result<Answer, tonic::Status> {
        let user = self.user(request).await?;
        let request = request::Request { user, target, action, include: Include::default() };
        chain::run(&self.context, request).await.map_err(tonic::Status::from)
    }

    async fn document<T>(
        &self,
        request: &Request<T>,
        target: Target,
        action: Action,
        form: Shape,
    ) -> Reply<pb::Document> {
        let row = self.context.registry().find(&target.group, &target.version, &target.resource).cloned();
        match self.run(request, target, action).await? {
            Answer::Document(document) => {
                let form = shape::Form { shape: form, include: Include::default() };
                let json = match row {
                    Some(row) if form.shape != Shape::Object => {
                        shape::object(&row, document.json, form).map_err(tonic::Status::from)?
                    }
                    _ => document.json,
                };
                Ok(Response::new(pb::Document { json, warnings: document.warnings }))
            }
            Answer::List(_) | Answer::Watch(_) => Err(mismatch()),
        }
    }
}

fn mismatch() -> tonic::Status {
    tonic::Status::from(Status::internal("a verb gave an answer of another verb"))
}

#[tonic::async_trait]
impl Resources for Front {
    type ListStream = Streaming<pb::ListChunk>;
    type WatchStream = Streaming<pb::WatchEvent>;

    async fn get(&self, mut request: Request<pb::GetRequest>) -> Reply<pb::Document> {
        let message = std::mem::take(request.get_mut());
        let target = wire::target(message.target)?;
        let options =
            GetOptions { resource_version: message.resource_version, shape: wire::shape(message.shape)? };
        self.document(&request, target, Action::Get(options), Shape::Object).await
    }

    async fn list(&self, mut request: Request<pb::ListRequest>) -> Reply<Self::ListStream> {
        let mut message = std::mem::take(request.get_mut());
        let target = wire::target(message.target.take())?;
        let options = wire::list_options(&message)?;
        let Answer::List(list) = self.run(&request, target, Action::List(options)).await? else {
            return Err(mismatch());
        };
        let chunks = wire::list_chunks(list).into_iter().map(Ok);
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn watch(&self, mut request: Request<pb::WatchRequest>) -> Reply<Self::WatchStream> {
        let mut message = std::mem::take(request.get_mut());
        let target = wire::target(message.target.take())?;
        let options = wire::watch_options(&message)?;
        let Answer::Watch(events) = self.run(&request, target, Action::Watch(options)).await? else {
            return Err(mismatch());
        };
        let events = events.map(|event| {
            Ok(match event {
                Ok(event) => event.into(),
                Err(status) => {
                    pb::WatchEvent { r#type: pb::EventType::Error.into(), object: status.to_json().into() }
                }
            })
        });
        Ok(Response::new(self.until_stop(events)))
    }

    async fn create(&self, mut request: Request<pb::WriteRequest>) -> Reply<pb::Document> {
        let message = std::mem::take(request.get_mut());
        let target = wire::target(message.target)?;
        let options = message.options.map(WriteOptions::from).unwrap_or_default();
        let action = Action::Create(Body::json(message.body), options);
        self.document(&request, target, action, wire::shape(message.shape)?).await
    }

    async fn update(&self, mut request: Request<pb::WriteRequest>) -> Reply<pb::Document> {
        let message = std::mem::take(request.get_mut());
        let target = wire::target(message.target)?;
        let options = message.options.map(WriteOptions::from).unwrap_or_default();
        let action = Action::Update(Body::json(message.body), options);
        self.document(&request, target, action, wire::shape(message.shape)?).await
    }

    async fn patch(&self, mut request: Request<pb::PatchRequest>) -> Reply<pb::Document> {
        let message = std::mem::take(request.get_mut());
        let target = wire::target(message.target)?;
        let patch_type = wire::patch_type(message.r#type)?;
        let options = message.options.map(WriteOptions::from).unwrap_or_default();
        let action = Action::Patch(patch_type, Body::json(message.body), options);
        self.document(&request, target, action, wire::shape(message.shape)?).await
    }

    async fn delete(&self, mut request: Request<pb::DeleteRequest>) -> Reply<pb::Document> {
        let message = std::mem::take(request.get_mut());
        let target = wire::target(message.target)?;
        let options = wire::delete_options(&message.body, message.dry_run)?;
        self.document(&request, target, Action::Delete(options), Shape::Object).await
    }

    async fn delete_collection(
        &self,
        mut request: Request<pb::DeleteCollectionRequest>,
    ) -> Reply<pb::Document> {
        let message = std::mem::take(request.get_mut());
        let target = wire::target(message.target)?;
        let options = wire::delete_options(&message.body, message.dry_run)?;
        let selection = wire::selected(message.selection);
        let action = Action::DeleteCollection(selection, options);
        self.document(&request, target, action, Shape::Object).await
    }

    async fn discover(&self, request: Request<pb::DiscoverRequest>) -> Reply<pb::DiscoverReply> {
        self.may(&request, "get", "/apis").await?;
        let registry = self.context.registry();
        let rows = registry.rows().iter().map(|row| pb::ResourceRow::from(&**row));
        Ok(Response::new(pb::DiscoverReply { rows: rows.collect(), server_version: VERSION.into() }))
    }
}

#[tonic::async_trait]
impl PodStreams for Front {
    type LogsStream = Streaming<pb::Chunk>;
    type ExecStream = Streaming<pb::ExecOutput>;

    async fn logs(&self, mut request: Request<pb::LogsRequest>) -> Reply<Self::LogsStream> {
        let message = std::mem::take(request.get_mut());
        let user = self.user(&request).await?;
        let chunks = logs::open(&self.context, &user, message).await.map_err(tonic::Status::from)?;
        let chunks = chunks.map(|chunk| chunk.map(|data| pb::Chunk { data }).map_err(tonic::Status::from));
        Ok(Response::new(self.until_stop(chunks)))
    }

    async fn exec(&self, request: Request<tonic::Streaming<pb::ExecInput>>) -> Reply<Self::ExecStream> {
        let user = self.user(&request).await?;
        let mut inputs = request.into_inner();
        let Some(pb::ExecInput { input: Some(Input::Start(start)) }) = inputs.message().await? else {
            return Err(tonic::Status::from(Status::bad_request(
                "the first message of an exec must hold its start",
            )));
        };
        let Session { from_node, to_node } =
            exec::open(&self.context, &user, start).await.map_err(tonic::Status::from)?;
        tokio::spawn(async move {
            while let Ok(Some(message)) = inputs.message().await {
                let frame = match message.input {
                    Some(Input::Stdin(data)) => ToNode::Stdin(data),
                    Some(Input::Resize(size)) => ToNode::Resize(size),
                    Some(Input::StdinClosed(closed)) => ToNode::StdinClosed(closed),
                    Some(Input::Start(_)) | None => continue,
                };
                if to_node.send(pb::ServerFrame { frame: Some(frame) }).await.is_err() {
                    return;
                }
            }
            // The client may close its side and still wait for output.
            to_node.closed().await;
        });
        let outputs = stream::unfold(Some(from_node), async |from_node| {
            let mut from_node = from_node?;
            loop {
                let (output, ends) = match from_node.recv().await?.frame {
                    Some(Frame::Stdout(data)) => (Output::Stdout(data), false),
                    Some(Frame::Stderr(data)) => (Output::Stderr(data), false),
                    Some(Frame::Status(json)) => (Output::Status(json), true),
                    Some(Frame::StreamId(_)) | None => continue,
                };
                let next = if ends { None } else { Some(from_node) };
                return Some((Ok(pb::ExecOutput { output: Some(output) }), next));
            }
        });
        Ok(Response::new(self.until_stop(outputs)))
    }
}
