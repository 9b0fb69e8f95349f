//! Acting as another user: the `Impersonate-*` headers of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use kontiki_proto::Status;

use super::{AUTHENTICATED, Access, Authorizer, UNAUTHENTICATED, User};

const EXTRA: &str = "impersonate-extra-";

/// The user the caller acts as: itself, unless it brought `Impersonate-*` headers and may impersonate what they name.
pub fn impersonate(
    authorizer: &Authorizer,
    user: Arc<User>,
    headers: &HeaderMap,
) -> Result<Arc<User>, Status> {
    let text = |value: &http::HeaderValue| {
        value
            .to_str()
            .map(str::to_string)
            .map_err(|_| Status::bad_request("an Impersonate header is not text"))
    };
    let one = |name: &str| headers.get(name).map(text).transpose();
    let name = one("impersonate-user")?.unwrap_or_default();
    let uid = one("impersonate-uid")?.unwrap_or_default();
    let groups: Vec<_> = headers.get_all("impersonate-group").iter().map(text).collect::<Result<_, _>>()?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.entry(decode(key)).or_default().push(text(value)?);
        }
    }
    if name.is_empty() {
        return if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            Ok(user)
        } else {
            Err(Status::bad_request("requested impersonation of groups, uid or extra without a user"))
        };
    }

    let may = |group, resource, subresource, namespace, name: &str| {
        authorizer.check(&Access {
            user: &user,
            verb: "impersonate",
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            path: None,
        })
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => may("", "serviceaccounts", "", namespace, account)?,
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    if !uid.is_empty() {
        may(AUTHENTICATION, "uids", "", "", &uid)?;
    }
    for (key, values) in &extra {
        for value in values {
            may(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }

    let mut acting = User { name, uid, groups, extra };
    if let (Some((namespace, _)), true) = (account_of(&acting.name), acting.groups.is_empty()) {
        let own = format!("system:serviceaccounts:{namespace}");
        acting.groups = vec!["system:serviceaccounts".into(), own];
    }
    let group = if acting.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !acting.is_in(AUTHENTICATED) && !acting.is_in(UNAUTHENTICATED) {
        acting.groups.push(group.into());
    }
    Ok(Arc::new(acting))
}

fn account_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Undoes the percent encoding of a header name; what is no encoding stays as it is.
fn decode(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail.get(..2)) {
            (b'%', Some(digits)) => hex::decode(digits).ok(),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.extend(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::MASTERS;
    use crate::auth::objects::fixture::Fixture;
    use crate::auth::rbac::index::Change;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_master_may_act_as_anyone() {
        let authorizer = Authorizer::new(Arc::new(Fixture::default()));
        let master = Arc::new(User::new("root", [MASTERS]));
        let act = |list: &[_]| impersonate(&authorizer, master.clone(), &headers(list));
        assert_eq!(act(&[]).expect("itself"), master);
        let acting = act(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-extra-example.com%2Fscope", "x"),
        ]);
        let acting = acting.expect("allowed");
        assert_eq!(
            (acting.name.as_str(), &acting.groups[..]),
            ("jane", &["dev".to_string(), AUTHENTICATED.into()][..])
        );
        assert_eq!(acting.extra["example.com/scope"], ["x"]);
        let account = act(&[("impersonate-user", "system:serviceaccount:a:b")]).expect("allowed");
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]);
        assert_eq!(act(&[("impersonate-group", "dev")]).expect_err("no user").code, 400);
    }

    #[test]
    fn others_need_the_right_for_each_part() {
        let authorizer = Authorizer::new(Arc::new(Fixture::default()));
        let role = json!({"rules": [{
            "verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"],
        }]});
        let binding = json!({
            "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "joe"}],
        });
        authorizer.index().apply([
            Change::Put { plural: "clusterroles", namespace: "", name: "r", object: &role },
            Change::Put { plural: "clusterrolebindings", namespace: "", name: "b", object: &binding },
        ]);
        let joe = Arc::new(User::new("joe", [AUTHENTICATED]));
        let act = |list: &[_]| impersonate(&authorizer, joe.clone(), &headers(list));
        assert_eq!(act(&[("impersonate-user", "jane")]).expect("allowed").name, "jane");
        assert_eq!(act(&[("impersonate-user", "jim")]).expect_err("another").code, 403);
        let error =
            act(&[("impersonate-user", "jane"), ("impersonate-group", MASTERS)]).expect_err("no group");
        assert_eq!(
            error.message,
            "groups \"system:masters\" is forbidden: User \"joe\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
        );
    }
}
