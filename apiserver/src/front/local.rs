//! The [`Api`] without a network: what the server's own controllers use.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kontiki_proto::api::{
    DeleteOptions, GetOptions, List, ListOptions, PatchType, WatchOptions, WatchStream, WriteOptions,
};
use kontiki_proto::status::Status;
use kontiki_proto::{Api, DynApi, Target};

use crate::auth::User;
use crate::chain;
use crate::request::{Action, Answer, Body, Request};
use crate::server::Context;
use crate::table::Include;

struct Local {
    context: Arc<Context>,
    user: Arc<User>,
}

/// The API as this user sees it.
pub fn api(context: Arc<Context>, user: User) -> DynApi {
    Arc::new(Local { context, user: Arc::new(user) })
}

fn mismatch() -> Status {
    Status::internal("a verb gave an answer of another verb")
}

impl Local {
    async fn run(&self, target: &Target, action: Action) -> Result<Answer, Status> {
        let request =
            Request { user: self.user.clone(), target: target.clone(), action, include: Include::default() };
        chain::run(&self.context, request).await
    }

    async fn document(&self, target: &Target, action: Action) -> Result<Bytes, Status> {
        match self.run(target, action).await? {
            Answer::Document(document) => Ok(document.json),
            Answer::List(_) | Answer::Watch(_) => Err(mismatch()),
        }
    }
}

#[async_trait]
impl Api for Local {
    async fn get(&self, target: &Target, options: &GetOptions) -> Result<Bytes, Status> {
        self.document(target, Action::Get(options.clone())).await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        match self.run(target, Action::List(options.clone())).await? {
            Answer::List(list) => Ok(list),
            Answer::Document(_) | Answer::Watch(_) => Err(mismatch()),
        }
    }

    async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream, Status> {
        match self.run(target, Action::Watch(options.clone())).await? {
            Answer::Watch(stream) => Ok(stream),
            Answer::Document(_) | Answer::List(_) => Err(mismatch()),
        }
    }

    async fn create(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Bytes, Status> {
        self.document(target, Action::Create(Body::json(body), options.clone())).await
    }

    async fn update(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Bytes, Status> {
        self.document(target, Action::Update(Body::json(body), options.clone())).await
    }

    async fn patch(
        &self,
        target: &Target,
        patch_type: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Bytes, Status> {
        self.document(target, Action::Patch(patch_type, Body::json(body), options.clone())).await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Bytes, Status> {
        self.document(target, Action::Delete(options.clone())).await
    }

    async fn delete_collection(
        &self,
        target: &Target,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Bytes, Status> {
        self.document(target, Action::DeleteCollection(selection.clone(), options.clone())).await
    }
}
