//! URLs of the Kubernetes API: which resource a path names, and what its query asks.

use std::collections::HashMap;

use kontiki_proto::Target;
use kontiki_proto::api::{DeleteOptions, ListOptions, VersionMatch, WatchOptions, WriteOptions};
use kontiki_proto::status::Status;

/// A path that names a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePath {
    pub target: Target,
    /// Whether it stands below the old `watch/` prefix.
    pub watch: bool,
    /// What stands behind the subresource, for proxies.
    pub rest: String,
}

/// `None` for paths that name no resource: `/healthz`, `/apis/apps/v1`, …
pub fn parse(path: &str) -> Option<ResourcePath> {
    let segments: Vec<String> = path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
    let mut segments = segments.iter().map(String::as_str).peekable();
    let (group, version) = match segments.next()? {
        "api" => ("", segments.next()?),
        "apis" => (segments.next()?, segments.next()?),
        _ => return None,
    };
    let watch = segments.next_if_eq(&"watch").is_some();
    let mut rest: Vec<&str> = segments.collect();
    let mut namespace = "";
    // `namespaces/<n>` is an object; with a resource behind it, the scope of that.
    if rest.len() >= 3 && rest[0] == "namespaces" && !matches!(rest[2], "status" | "finalize") {
        namespace = rest[1];
        rest.drain(..2);
    }
    let mut rest = rest.into_iter();
    let target = Target {
        group: group.into(),
        version: version.into(),
        resource: rest.next()?.into(),
        namespace: namespace.into(),
        name: rest.next().unwrap_or_default().into(),
        subresource: rest.next().unwrap_or_default().into(),
    };
    Some(ResourcePath { target, watch, rest: rest.collect::<Vec<_>>().join("/") })
}

/// Undoes `%XX`; what is no escape stays as it is.
fn decode(text: &str) -> String {
    percent(text, false)
}

fn percent(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let escaped = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(escaped) => {
                out.push(escaped);
                at += 3;
            }
            None => {
                out.push(if byte == b'+' && plus_is_space { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A decoded query; a name may stand several times.
#[derive(Clone, Debug, Default)]
pub struct Query {
    values: HashMap<String, Vec<String>>,
}

impl Query {
    pub fn parse(query: &str) -> Query {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(percent(name, true)).or_default().push(percent(value, true));
        }
        Query { values }
    }

    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Empty where the query does not say.
    pub fn text(&self, name: &str) -> &str {
        self.all(name).first().map(String::as_str).unwrap_or_default()
    }

    /// As upstream reads them: given without a value counts as true, `0` and `false` as false.
    pub fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.text(name).to_lowercase().as_str(), "0" | "false" | "f")
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax ({name})"))
            }),
        }
    }

    pub fn list_options(&self) -> Result<ListOptions, Status> {
        let limit: i64 = self.number("limit")?.unwrap_or(0);
        Ok(ListOptions {
            label_selector: self.text("labelSelector").into(),
            field_selector: self.text("fieldSelector").into(),
            limit: u64::try_from(limit)
                .map_err(|_| Status::bad_request("limit: Invalid value: must not be negative"))?,
            continue_token: self.text("continue").into(),
            resource_version: self.text("resourceVersion").into(),
            version_match: self.version_match()?,
            ..ListOptions::default()
        })
    }

    fn version_match(&self) -> Result<VersionMatch, Status> {
        match self.text("resourceVersionMatch") {
            "" => Ok(VersionMatch::Unset),
            "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
            "Exact" => Ok(VersionMatch::Exact),
            other => Err(Status::bad_request(format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
            ))),
        }
    }

    pub fn watch_options(&self) -> Result<WatchOptions, Status> {
        Ok(WatchOptions {
            label_selector: self.text("labelSelector").into(),
            field_selector: self.text("fieldSelector").into(),
            resource_version: self.text("resourceVersion").into(),
            version_match: self.version_match()?,
            allow_bookmarks: self.flag("allowWatchBookmarks"),
            send_initial_events: self.flag("sendInitialEvents"),
            timeout_seconds: self.number("timeoutSeconds")?,
            ..WatchOptions::default()
        })
    }

    fn dry_run(&self) -> Result<bool, Status> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Status::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    pub fn write_options(&self) -> Result<WriteOptions, Status> {
        Ok(WriteOptions {
            dry_run: self.dry_run()?,
            field_manager: self.text("fieldManager").into(),
            field_validation: self.text("fieldValidation").into(),
            force: self.flag("force"),
        })
    }

    /// What the query says beside a body, which counts before it.
    pub fn delete_options(&self) -> Result<DeleteOptions, Status> {
        let text = |name: &str| Some(self.text(name).to_string()).filter(|text| !text.is_empty());
        Ok(DeleteOptions {
            grace_period_seconds: self.number("gracePeriodSeconds")?,
            propagation_policy: text("propagationPolicy"),
            orphan_dependents: self.has("orphanDependents").then(|| self.flag("orphanDependents")),
            dry_run: text("dryRun").into_iter().collect(),
            preconditions: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        for (path, expected) in [
            ("/api/v1/pods", Some((",v1,pods,,,", false))),
            ("/api/v1/namespaces", Some((",v1,namespaces,,,", false))),
            ("/api/v1/namespaces/a", Some((",v1,namespaces,,a,", false))),
            ("/api/v1/namespaces/a/status", Some((",v1,namespaces,,a,status", false))),
            ("/api/v1/namespaces/a/pods/b/log", Some((",v1,pods,a,b,log", false))),
            (
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                Some(("apps,v1,deployments,a,b,scale", false)),
            ),
            ("/api/v1/watch/namespaces/a/pods/b", Some((",v1,pods,a,b,", true))),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                Some(("rbac.authorization.k8s.io,v1,clusterroles,,system:node,", false)),
            ),
            ("/api/v1", None),
            ("/apis/apps/v1", None),
            ("/healthz", None),
            ("/", None),
        ] {
            let found = parse(path).map(|p| {
                let t = p.target;
                let text = [t.group, t.version, t.resource, t.namespace, t.name, t.subresource].join(",");
                (text, p.watch)
            });
            assert_eq!(found, expected.map(|(text, watch)| (text.to_string(), watch)), "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query =
            Query::parse("labelSelector=a%3Db%2Cc&watch=1&limit=5&stdin&command=ls&command=-l+x&dryRun=All");
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert!(query.flag("watch") && query.flag("stdin") && !query.flag("tty"));
        assert_eq!(query.list_options().expect("options").limit, 5);
        assert_eq!(query.all("command"), ["ls", "-l x"]);
        assert!(query.write_options().expect("options").dry_run);
        assert_eq!(Query::parse("limit=x").list_options().expect_err("refused").code, 400);
    }
}
