//! ConfigMaps, Secrets and Services as pods use them. While the API is not reachable, what was last read still serves.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kontiki_proto::api::{ApiExt, ListOptions, Object};
use kontiki_proto::{DynApi, Status};
use parking_lot::Mutex;
use serde_json::Value;

/// More objects than pods of one node use; beyond it any one is forgotten.
const LIMIT: usize = 2000;

pub struct Objects {
    api: DynApi,
    last: Mutex<HashMap<(&'static str, String, String), Value>>,
}

impl Objects {
    pub fn new(api: DynApi) -> Objects {
        Objects { api, last: Mutex::default() }
    }

    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Status> {
        self.read(namespace, name).await
    }

    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Status> {
        self.read(namespace, name).await
    }

    /// The services of the namespace, and `default/kubernetes`.
    pub async fn services(&self, namespace: &str) -> Result<Vec<Service>, Status> {
        let listed = self.api.list_as::<Service>(namespace, &ListOptions::default()).await;
        let key = (Service::KIND_NAME, namespace.to_string(), String::new());
        let mut services = match listed {
            Ok((services, _)) => {
                self.remember(key, serde_json::to_value(&services).unwrap_or_default());
                services
            }
            Err(status) => self.recall(&key).ok_or(status)?,
        };
        if namespace != "default" {
            services.extend(self.read::<Service>("default", "kubernetes").await?);
        }
        Ok(services)
    }

    async fn read<K: Object + Named>(&self, namespace: &str, name: &str) -> Result<Option<K>, Status> {
        let key = (K::KIND_NAME, namespace.to_string(), name.to_string());
        match self.api.find_as::<K>(namespace, name).await {
            Ok(Some(object)) => {
                self.remember(key, serde_json::to_value(&object).unwrap_or_default());
                Ok(Some(object))
            }
            Ok(None) => {
                self.last.lock().remove(&key);
                Ok(None)
            }
            // Only an API that does not answer is stood in for; a refusal is an answer.
            Err(status) if status.is_retriable() => self.recall(&key).map(Some).ok_or(status),
            Err(status) => Err(status),
        }
    }

    fn remember(&self, key: (&'static str, String, String), value: Value) {
        let mut last = self.last.lock();
        let full = last.len() >= LIMIT && !last.contains_key(&key);
        if let Some(any) = last.keys().next().filter(|_| full).cloned() {
            last.remove(&any);
        }
        last.insert(key, value);
    }

    fn recall<T: serde::de::DeserializeOwned>(&self, key: &(&'static str, String, String)) -> Option<T> {
        let value = self.last.lock().get(key).cloned()?;
        serde_json::from_value(value).ok()
    }
}

trait Named {
    const KIND_NAME: &'static str;
}

impl Named for ConfigMap {
    const KIND_NAME: &'static str = "ConfigMap";
}

impl Named for Secret {
    const KIND_NAME: &'static str = "Secret";
}

impl Named for Service {
    const KIND_NAME: &'static str = "Service";
}
