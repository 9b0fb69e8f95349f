//! Kinds that are answered and not stored: token and access reviews, and token requests.

use jiff::{SignedDuration, Timestamp};
use kontiki_proto::status::FieldError;
use kontiki_proto::{Registry, Resource, Status, Target};
use serde_json::{Map, Value, json};

use crate::auth::rbac::Rule;
use crate::auth::service_account::{Private, Reference};
use crate::auth::{Access, Auth, Decision, MASTERS, User, node};

/// Bounds of a token's life, in seconds; upstream's.
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
const USUAL: i64 = 3600;

/// Answers a create of a review or of `serviceaccounts/token`; `None` where the target is another resource.
/// The caller has been authorized to create it; the answer goes out with 201.
pub async fn create(
    auth: &Auth,
    user: &User,
    target: &Target,
    body: &Value,
) -> Option<Result<Value, Status>> {
    let answer = match (target.group.as_str(), target.resource.as_str(), target.subresource.as_str()) {
        ("authentication.k8s.io", "tokenreviews", "") => Ok(token_review(auth, body).await),
        ("authentication.k8s.io", "selfsubjectreviews", "") => {
            Ok(with_status(body, json!({"userInfo": user_info(user)})))
        }
        ("authorization.k8s.io", "subjectaccessreviews", "") => access_review(auth, target, body),
        ("authorization.k8s.io", "localsubjectaccessreviews", "") => {
            let asked = body["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
            if asked == target.namespace {
                access_review(auth, target, body)
            } else {
                Err(other_namespace(body))
            }
        }
        ("authorization.k8s.io", "selfsubjectaccessreviews", "") => own_row(target)
            .and_then(|row| access_status(auth, row, user, body))
            .map(|status| with_status(body, status)),
        ("authorization.k8s.io", "selfsubjectrulesreviews", "") => rules_review(auth, user, body),
        ("", "serviceaccounts", "token") => token_request(auth, user, target, body).await,
        _ => return None,
    };
    Some(answer)
}

fn with_status(body: &Value, status: Value) -> Value {
    let mut answer = body.clone();
    answer["status"] = status;
    answer
}

fn own_row(target: &Target) -> Result<&'static Resource, Status> {
    let row = Registry::builtin().find(&target.group, &target.version, &target.resource);
    row.map(AsRef::as_ref).ok_or_else(Status::no_such_path)
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

async fn token_review(auth: &Auth, body: &Value) -> Value {
    let token = text(&body["spec"]["token"]);
    let asked = strings(&body["spec"]["audiences"]);
    let accepted = if asked.is_empty() { auth.signer.audiences() } else { &asked };
    let status = match auth.authenticator.token(token, accepted).await {
        Some(good) => json!({
            "authenticated": true, "user": user_info(&good.user), "audiences": good.audiences,
        }),
        None if token.is_empty() => json!({"error": "no token was given to review"}),
        None => json!({"error": "[invalid bearer token, or it is for other audiences]"}),
    };
    with_status(body, status)
}

fn other_namespace(body: &Value) -> Status {
    let namespace = text(&body["metadata"]["namespace"]);
    Status::bad_request(format!(
        "spec.resourceAttributes.namespace must match the namespace of the review: {namespace:?}"
    ))
}

fn access_review(auth: &Auth, target: &Target, body: &Value) -> Result<Value, Status> {
    let row = own_row(target)?;
    let spec = &body["spec"];
    let mut user = User::new(text(&spec["user"]), strings(&spec["groups"]));
    user.uid = text(&spec["uid"]).into();
    for (key, values) in spec["extra"].as_object().into_iter().flatten() {
        user.extra.insert(key.clone(), strings(values));
    }
    if user.name.is_empty() && user.groups.is_empty() {
        let error = FieldError::required("spec.user", "at least one of user or group must be specified");
        return Err(Status::invalid(row, "", &[error]));
    }
    Ok(with_status(body, access_status(auth, row, &user, body)?))
}

fn access_status(auth: &Auth, row: &Resource, user: &User, body: &Value) -> Result<Value, Status> {
    let spec = &body["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let access = match (resource.is_object(), path.is_object()) {
        (true, false) => Access {
            user,
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            path: None,
        },
        (false, true) => Access::path(user, text(&path["verb"]), text(&path["path"])),
        (both, _) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let field = "spec.resourceAttributes";
            let error = if both {
                FieldError::invalid(
                    "spec.nonResourceAttributes",
                    path,
                    "cannot be specified in combination with resourceAttributes",
                )
            } else {
                FieldError::required(field, why)
            };
            return Err(Status::invalid(row, "", &[error]));
        }
    };
    Ok(match auth.authorizer.authorize(&access) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny { reason } if reason.is_empty() => json!({"allowed": false}),
        Decision::Deny { reason } => json!({"allowed": false, "reason": reason}),
    })
}

fn rules_review(auth: &Auth, user: &User, body: &Value) -> Result<Value, Status> {
    let namespace = text(&body["spec"]["namespace"]);
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let mut rules = auth.authorizer.index().rules(user, namespace);
    let all = || vec!["*".into()];
    let everything = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
    if user.is_in(MASTERS) && !rules.contains(&everything) {
        rules.push(everything);
        rules.push(Rule { verbs: all(), urls: all(), ..Rule::default() });
    }
    let (urls, resources): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| !rule.urls.is_empty());
    let write = |rules: Vec<&Rule>| rules.into_iter().map(Rule::write).collect::<Value>();
    let status = json!({
        "resourceRules": write(resources), "nonResourceRules": write(urls),
        // What the node authorizer allows depends on pods and cannot be listed.
        "incomplete": user.node().is_some(),
    });
    Ok(with_status(body, status))
}

async fn token_request(auth: &Auth, user: &User, target: &Target, body: &Value) -> Result<Value, Status> {
    let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
    let accounts = own_row(target)?;
    let spec = &body["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(USUAL);
    let bound = &spec["boundObjectRef"];
    if let Some(node) = user.node() {
        node::check_token(&*auth.objects, node, namespace, body)
            .map_err(|why| Status::forbidden(accounts, name, &why))?;
    }
    if !(SHORTEST..=LONGEST).contains(&seconds) {
        let why = if seconds < SHORTEST {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
        let mut status = Status::invalid(accounts, name, &[error]);
        status.message = status.message.replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1);
        return Err(status);
    }

    let account = match auth.objects.get("", "serviceaccounts", namespace, name) {
        Some(account) => account,
        None => {
            auth.objects.catch_up().await?;
            let found = auth.objects.get("", "serviceaccounts", namespace, name);
            found.ok_or_else(|| Status::not_found(accounts, name))?
        }
    };
    let reference = |object: &Value| Reference {
        name: text(&object["metadata"]["name"]).into(),
        uid: text(&object["metadata"]["uid"]).into(),
    };
    let mut private =
        Private { namespace: namespace.into(), serviceaccount: reference(&account), ..Private::default() };
    if bound.is_object() {
        bind(auth, &mut private, bound)?;
    }
    let audiences = strings(&spec["audiences"]);
    let now = Timestamp::now();
    let token = auth
        .signer
        .issue(private, &audiences, now, SignedDuration::from_secs(seconds))
        .map_err(|error| Status::internal(error.to_string()))?;
    let end = now.as_second().saturating_add(seconds);
    let end = Timestamp::from_second(end).map_err(|error| Status::internal(error.to_string()))?;

    let mut answer = with_status(body, json!({"token": token, "expirationTimestamp": end.to_string()}));
    answer["spec"]["expirationSeconds"] = seconds.into();
    if audiences.is_empty() {
        answer["spec"]["audiences"] = json!(auth.signer.audiences());
    }
    answer["metadata"]["name"] = name.into();
    answer["metadata"]["namespace"] = namespace.into();
    answer["metadata"]["creationTimestamp"] = now.round(jiff::Unit::Second).unwrap_or(now).to_string().into();
    Ok(answer)
}

/// Ties a token to the pod, secret or node it is asked for.
fn bind(auth: &Auth, private: &mut Private, bound: &Value) -> Result<(), Status> {
    let (kind, name, uid) = (text(&bound["kind"]), text(&bound["name"]), text(&bound["uid"]));
    let (plural, namespace) = match (kind, text(&bound["apiVersion"])) {
        ("Pod", "v1" | "") => ("pods", private.namespace.clone()),
        ("Secret", "v1" | "") => ("secrets", private.namespace.clone()),
        ("Node", "v1" | "") => ("nodes", String::new()),
        (kind, version) => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
    };
    let row = Registry::builtin().find("", "v1", plural).ok_or_else(Status::no_such_path)?;
    let object =
        auth.objects.get("", plural, &namespace, name).ok_or_else(|| Status::not_found(row, name))?;
    let stored = text(&object["metadata"]["uid"]);
    if !uid.is_empty() && uid != stored {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(row, name, &why));
    }
    let reference = Some(Reference { name: name.into(), uid: stored.into() });
    match plural {
        "secrets" => private.secret = reference,
        "nodes" => private.node = reference,
        _ => {
            let account = object["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            if account != private.serviceaccount.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    private.serviceaccount.name
                )));
            }
            private.pod = reference;
            if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let uid = auth.objects.identity("", "nodes", "", node).map(|node| node.uid);
                private.node = Some(Reference { name: node.into(), uid: uid.unwrap_or_default() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::AuthConfig;
    use crate::auth::objects::fixture::Fixture;
    use crate::auth::rbac::index::Change;

    fn auth() -> Auth {
        let object = |kind: &str, name: &str, uid: &str, spec: Value| {
            let namespace = if kind == "Node" { "" } else { "shop" };
            json!({
                "apiVersion": "v1", "kind": kind, "spec": spec,
                "metadata": {"namespace": namespace, "name": name, "uid": uid},
            })
        };
        let objects = Fixture::default().with([
            object("ServiceAccount", "web", "sa-1", Value::Null),
            object("Pod", "web-0", "pod-1", json!({"serviceAccountName": "web", "nodeName": "n1"})),
            object("Pod", "other", "pod-2", json!({"serviceAccountName": "other", "nodeName": "n2"})),
            object("Node", "n1", "node-1", Value::Null),
        ]);
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let store = kontiki_store::Store::in_memory();
        let auth = Auth::with_objects(&AuthConfig::with_key(key), store, Arc::new(objects)).expect("set up");
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let binding = json!({
            "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}],
        });
        auth.authorizer.index().apply([
            Change::Put { plural: "clusterroles", namespace: "", name: "r", object: &role },
            Change::Put { plural: "rolebindings", namespace: "shop", name: "b", object: &binding },
        ]);
        auth
    }

    async fn ask(auth: &Auth, user: &User, path: (&str, &str, &str), body: Value) -> Result<Value, Status> {
        let (group, resource, subresource) = path;
        let target = Target {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..Target::default()
        };
        let target = target.within("shop").named(if subresource.is_empty() { "" } else { "web" });
        create(auth, user, &target, &body).await.expect("a review")
    }

    #[tokio::test]
    async fn access_reviews_answer_for_oneself_and_others() {
        let auth = auth();
        let jane = User::new("jane", ["dev"]);
        for (namespace, allowed) in [("shop", true), ("other", false)] {
            let attributes = json!({"verb": "get", "resource": "pods", "namespace": namespace});
            let own = json!({"spec": {"resourceAttributes": attributes}});
            let answer =
                ask(&auth, &jane, ("authorization.k8s.io", "selfsubjectaccessreviews", ""), own).await;
            assert_eq!(answer.expect("answered")["status"]["allowed"], allowed);
            let others = json!({"spec": {"user": "jane", "resourceAttributes": attributes}});
            let root = User::new("root", [MASTERS]);
            let answer =
                ask(&auth, &root, ("authorization.k8s.io", "subjectaccessreviews", ""), others).await;
            assert_eq!(answer.expect("answered")["status"]["allowed"], allowed);
        }
        let nobody = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
        let error = ask(&auth, &jane, ("authorization.k8s.io", "subjectaccessreviews", ""), nobody).await;
        assert_eq!(error.expect_err("no user").code, 422);
        let nothing =
            ask(&auth, &jane, ("authorization.k8s.io", "selfsubjectaccessreviews", ""), json!({"spec": {}}))
                .await;
        assert_eq!(nothing.expect_err("no attributes").code, 422);
    }

    #[tokio::test]
    async fn rules_and_identity_are_told() {
        let auth = auth();
        let jane = User::new("jane", ["dev"]);
        let body = json!({"spec": {"namespace": "shop"}});
        let rules = ask(&auth, &jane, ("authorization.k8s.io", "selfsubjectrulesreviews", ""), body).await;
        let rules = rules.expect("answered");
        assert_eq!(
            rules["status"]["resourceRules"],
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
        );
        let me = ask(&auth, &jane, ("authentication.k8s.io", "selfsubjectreviews", ""), json!({})).await;
        assert_eq!(
            me.expect("answered")["status"]["userInfo"],
            json!({"username": "jane", "groups": ["dev"]})
        );
    }

    #[tokio::test]
    async fn a_requested_token_is_good_and_bound() {
        let auth = auth();
        let root = User::new("root", [MASTERS]);
        let token = ("", "serviceaccounts", "token");
        let bound = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}});
        let answer = ask(&auth, &root, token, bound("web-0", "pod-1")).await.expect("a token");
        assert_eq!(answer["spec"]["expirationSeconds"], 3600);
        let review = json!({"spec": {"token": answer["status"]["token"]}});
        let review =
            ask(&auth, &root, ("authentication.k8s.io", "tokenreviews", ""), review).await.expect("a review");
        assert_eq!(review["status"]["authenticated"], true);
        assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:shop:web");
        assert_eq!(
            review["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"],
            json!(["n1"])
        );

        for (body, code) in [
            (bound("web-0", "pod-9"), 409),
            (bound("gone", ""), 404),
            (bound("other", ""), 400),
            (
                json!({"spec": {"boundObjectRef": {"kind": "Job", "apiVersion": "batch/v1", "name": "x"}}}),
                400,
            ),
            (json!({"spec": {"expirationSeconds": 60}}), 422),
        ] {
            let error = ask(&auth, &root, token, body.clone()).await.expect_err("refused");
            assert_eq!(error.code, code, "{body}: {}", error.message);
        }
        let bad = json!({"spec": {"token": "x.y.z"}});
        let review =
            ask(&auth, &root, ("authentication.k8s.io", "tokenreviews", ""), bad).await.expect("a review");
        assert_ne!(review["status"]["authenticated"], true);
    }

    #[tokio::test]
    async fn a_node_gets_tokens_for_its_own_pods_alone() {
        let auth = auth();
        let token = ("", "serviceaccounts", "token");
        let body = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web-0", "uid": "pod-1"}}});
        for (node, allowed) in [("n1", true), ("n2", false)] {
            let node = User::new(format!("system:node:{node}"), [crate::auth::NODES]);
            assert_eq!(ask(&auth, &node, token, body.clone()).await.is_ok(), allowed);
            assert_eq!(ask(&auth, &node, token, json!({"spec": {}})).await.expect_err("unbound").code, 403);
        }
    }
}
