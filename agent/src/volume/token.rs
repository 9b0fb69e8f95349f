//! Service-account tokens for pods, bound to the pod and renewed before they expire.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kontiki_proto::api::{WriteOptions, encode};
use kontiki_proto::{DynApi, Status, Target};
use parking_lot::Mutex;
use serde_json::json;

use crate::pod::model::{name, namespace, uid};

/// More tokens than pods of one node have.
const LIMIT: usize = 2000;

#[derive(Clone)]
struct Held {
    token: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// All tokens of this node's pods, in memory only.
pub struct Tokens {
    api: DynApi,
    held: Mutex<HashMap<(String, String, i64), Held>>,
}

impl Tokens {
    pub fn new(api: DynApi) -> Tokens {
        Tokens { api, held: Mutex::default() }
    }

    /// A token that is good for at least a fifth of its life; while the API does not answer, one that is still valid.
    pub async fn token(&self, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<String, Status> {
        let seconds = wanted.expiration_seconds.unwrap_or(3600);
        let audience = wanted.audience.clone().unwrap_or_default();
        let key = (uid(pod).to_string(), audience.clone(), seconds);
        let now = Timestamp::now();
        let held = self.held.lock().get(&key).cloned();
        if let Some(held) = held.as_ref().filter(|h| h.renew_at > now) {
            return Ok(held.token.clone());
        }
        match self.request(pod, &audience, seconds).await {
            Ok(fresh) => {
                let mut all = self.held.lock();
                all.retain(|_, h| h.expires_at > now);
                if all.len() < LIMIT {
                    all.insert(key, fresh.clone());
                }
                Ok(fresh.token)
            }
            Err(status) => match held.filter(|h| status.is_retriable() && h.expires_at > now) {
                Some(held) => Ok(held.token),
                None => Err(status),
            },
        }
    }

    pub fn forget(&self, pod_uid: &str) {
        self.held.lock().retain(|(uid, ..), _| uid != pod_uid);
    }

    async fn request(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Held, Status> {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let target = Target::kind::<ServiceAccount>().within(namespace(pod)).named(account).sub("token");
        let audiences = if audience.is_empty() { json!([]) } else { json!([audience]) };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name(pod), "uid": uid(pod)},
            }
        });
        let answer = self.api.create(&target, encode(&body)?, &WriteOptions::default()).await?;
        let answer: serde_json::Value = kontiki_proto::api::decode(&answer)?;
        let token = answer["status"]["token"].as_str().unwrap_or_default().to_string();
        if token.is_empty() {
            return Err(Status::internal("the answer to a token request holds no token"));
        }
        let now = Timestamp::now();
        let expires_at = answer["status"]["expirationTimestamp"]
            .as_str()
            .and_then(|t| t.parse::<Timestamp>().ok())
            .unwrap_or(now + SignedDuration::from_secs(seconds));
        let life = expires_at.duration_since(now).as_secs().max(0);
        Ok(Held { token, renew_at: now + SignedDuration::from_secs(life * 4 / 5), expires_at })
    }
}
