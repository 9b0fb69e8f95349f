//! `kontiki wait`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use kontiki_proto::api::{Api, GetOptions, decode};
use serde_json::Value;
use tokio::time::Instant;

use super::delete::await_end;
use super::meta::objects_of;
use crate::output::jsonpath;
use crate::session::Session;

/// An object is looked at this often; a person does not feel the difference to a watch.
const POLL: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// `deployment/web`, `pods` with -l or --all
    #[arg(required = true)]
    words: Vec<String>,
    /// `condition=Available`, `condition=Ready=false`, `delete`, `jsonpath={.status.phase}=Running`
    #[arg(long = "for", required = true)]
    condition: String,
    #[arg(long, short = 'l', default_value = "")]
    selector: String,
    #[arg(long)]
    all: bool,
    /// `30s`, `2m`, `1h30m`
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Goal {
    Condition { name: String, status: String },
    Delete,
    JsonPath { template: String, value: Option<String> },
}

/// # Errors
/// The time ran out, or what the server said.
pub async fn wait(session: &Session, args: &WaitArgs) -> Result<()> {
    let goal = goal(&args.condition)?;
    let deadline = Instant::now() + args.timeout;
    let targets = objects_of(session, &session.select(&args.words).await?, &args.selector, args.all).await?;
    if targets.is_empty() {
        bail!("no matching resources found");
    }
    for (target, label) in targets {
        if goal == Goal::Delete {
            await_end(session, &target, "", deadline).await?;
            println!("{label} condition met");
            continue;
        }
        loop {
            match session.client.get(&target, &GetOptions::default()).await {
                Ok(document) if met(&goal, &decode(&document)?)? => break,
                Err(status) if !status.is_retriable() => return Err(status.into()),
                _ => {}
            }
            if Instant::now() >= deadline {
                bail!("timed out waiting for the condition on {label}");
            }
            tokio::time::sleep(POLL).await;
        }
        println!("{label} condition met");
    }
    Ok(())
}

fn goal(text: &str) -> Result<Goal> {
    if text == "delete" {
        return Ok(Goal::Delete);
    }
    if let Some(condition) = text.strip_prefix("condition=") {
        let (name, status) = condition.split_once('=').unwrap_or((condition, "True"));
        return Ok(Goal::Condition { name: name.into(), status: status.into() });
    }
    if let Some(path) = text.strip_prefix("jsonpath=") {
        let path = path.trim_matches('\'');
        let end = path.rfind('}').map_or(path.len(), |at| at + 1);
        let value = path[end..].strip_prefix('=').map(String::from);
        return Ok(Goal::JsonPath { template: path[..end].into(), value });
    }
    bail!("--for {text:?} is none of condition=NAME[=STATUS], delete, jsonpath={{…}}[=VALUE]")
}

/// A condition counts only when the controller has seen the object's newest generation.
fn met(goal: &Goal, object: &Value) -> Result<bool> {
    match goal {
        Goal::Delete => Ok(false),
        Goal::Condition { name, status } => {
            let seen = object["status"]["observedGeneration"].as_i64();
            if seen.is_some_and(|seen| seen < object["metadata"]["generation"].as_i64().unwrap_or(0)) {
                return Ok(false);
            }
            let conditions = object["status"]["conditions"].as_array();
            Ok(conditions.into_iter().flatten().any(|condition| {
                let is = |key: &str, value: &str| {
                    condition[key].as_str().is_some_and(|text| text.eq_ignore_ascii_case(value))
                };
                is("type", name) && is("status", status)
            }))
        }
        Goal::JsonPath { template, value } => {
            let found = jsonpath::evaluate(template, object).unwrap_or_default();
            Ok(value.as_ref().map_or(!found.is_empty(), |value| &found == value))
        }
    }
}

/// `90s`, `1m30s`, `2h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 30s or 1m30s");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut total, mut digits) = (Duration::ZERO, String::new());
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        let number: u64 = digits.parse().map_err(|_| bad())?;
        digits.clear();
        let unit = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(bad()),
        };
        total += Duration::from_secs(number.checked_mul(unit).ok_or_else(bad)?);
    }
    if digits.is_empty() && !text.is_empty() { Ok(total) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_read_as_in_kubectl() {
        for (text, seconds) in [("30s", 30), ("1m30s", 90), ("2h", 7200), ("5", 5)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "1x", "1m3", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_condition_of_an_older_generation_does_not_count() {
        let object = |seen: i64| {
            json!({
                "metadata": { "generation": 2 },
                "status": { "observedGeneration": seen, "conditions": [{ "type": "Available", "status": "True" }] },
            })
        };
        let goal = goal("condition=available").unwrap();
        assert!(!met(&goal, &object(1)).unwrap());
        assert!(met(&goal, &object(2)).unwrap());
    }

    #[test]
    fn goals_are_taken_apart() {
        assert_eq!(goal("delete").unwrap(), Goal::Delete);
        let expected = Goal::JsonPath { template: "{.status.phase}".into(), value: Some("Running".into()) };
        assert_eq!(goal("jsonpath={.status.phase}=Running").unwrap(), expected);
        assert!(goal("nonsense").is_err());
    }
}
