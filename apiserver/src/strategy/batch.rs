//! Jobs and what starts them.

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, immutable, label_selector, not_negative, one_of, required, required_one_of};
use super::value::{default, has, object, set, text};
use super::{Entry, PLAIN, Strategy, labels, pod};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    (
        "batch",
        "jobs",
        Strategy {
            default: job,
            prepare_create: own_pods,
            validate: validate_job,
            validate_update: update_job,
            generation: true,
            ..PLAIN
        },
    ),
    (
        "batch",
        "cronjobs",
        Strategy { default: cron_job, validate: validate_cron_job, generation: true, ..PLAIN },
    ),
];

fn job(job: &mut Value) {
    let spec = object(job, "spec");
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    default(spec, "backoffLimit", limit);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default(spec, "podReplacementPolicy", replacement);
    pod::default_template(spec);
    let labels = spec["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        default(object(job, "metadata"), "labels", labels);
    }
}

/// A job finds its pods by its own uid, unless the client wants to select them.
fn own_pods(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let uid = text(&job["metadata"], "uid").to_owned();
    let name = text(&job["metadata"], "name").to_owned();
    let spec = object(job, "spec");
    let labels = object(object(object(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        default(labels, key, value.as_str());
    }
    if !has(spec, "selector") {
        set(spec, "selector", json!({}));
    }
    let wanted = object(object(spec, "selector"), "matchLabels");
    default(wanted, "batch.kubernetes.io/controller-uid", uid);
}

fn cron_job(cron: &mut Value) {
    let spec = object(cron, "spec");
    default(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    let template = object(spec, "jobTemplate");
    object(template, "metadata");
    pod::default_template(object(template, "spec"));
}

/// The part of a job's specification that cron jobs share.
pub(super) fn job_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    not_negative(
        spec,
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
        path,
        errors,
    );
    one_of(spec, "completionMode", path, &["Indexed", "NonIndexed"], errors);
    if text(spec, "completionMode") == "Indexed" && !has(spec, "completions") {
        let why = "when completion mode is Indexed";
        errors.push(FieldError::required(path.key("completions"), why));
    }
    if has(spec, "selector") {
        label_selector(&spec["selector"], &path.key("selector"), errors);
    }
    one_of(spec, "podReplacementPolicy", path, &["Failed", "TerminatingOrFailed"], errors);
    let template = path.key("template");
    pod::validate_template(&spec["template"], &template, errors);
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let inner = template.key("spec");
        let here = inner.key("restartPolicy");
        if policy == "Always" {
            let why = r#"valid values: "OnFailure", "Never""#;
            errors.push(FieldError::required(here, why));
        } else {
            errors.push(FieldError::not_supported(here, policy, &["OnFailure", "Never"]));
        }
    }
}

fn validate_job(job: &Value, errors: &mut Errors) {
    let (spec, path) = (&job["spec"], Path::of("spec"));
    if !has(spec, "selector") {
        errors.push(FieldError::required(path.key("selector"), ""));
    }
    let own = &spec["template"]["metadata"]["labels"];
    if has(spec, "selector") && !labels::matches(&spec["selector"], own) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", own, why));
    }
    job_spec(spec, &path, errors);
}

fn update_job(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::of("spec"));
    for key in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"] {
        immutable(new, old, key, &path, errors);
    }
    // An indexed job may grow and shrink, if both numbers move together.
    let elastic = text(new, "completionMode") == "Indexed" && new["completions"] == new["parallelism"];
    if !elastic {
        immutable(new, old, "completions", &path, errors);
    }
    if old["suspend"] != true {
        immutable(new, old, "template", &path, errors);
    }
}

/// Room for the suffix that a cron job's jobs get.
const MOST_CRON_JOB_NAME: usize = 52;

fn validate_cron_job(cron: &Value, errors: &mut Errors) {
    let name = text(&cron["metadata"], "name");
    if name.len() > MOST_CRON_JOB_NAME {
        let why = format!("must be no more than {MOST_CRON_JOB_NAME} bytes");
        errors.push(FieldError::invalid("metadata.name", name, &why));
    }
    let (spec, path) = (&cron["spec"], Path::of("spec"));
    if required(spec, "schedule", &path, errors) {
        schedule(text(spec, "schedule"), &path.key("schedule"), errors);
    }
    not_negative(
        spec,
        &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
        &path,
        errors,
    );
    required_one_of(spec, "concurrencyPolicy", &path, &["Allow", "Forbid", "Replace"], errors);
    let zone = text(spec, "timeZone");
    if has(spec, "timeZone") && (zone.is_empty() || zone.eq_ignore_ascii_case("local")) {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(path.key("timeZone"), zone, why));
    } else if !zone.is_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        let why = format!("unknown time zone {zone}");
        errors.push(FieldError::invalid(path.key("timeZone"), zone, &why));
    }
    let template = path.key("jobTemplate");
    let inner = &spec["jobTemplate"]["spec"];
    if inner["manualSelector"] == true {
        errors.push(FieldError::not_supported(
            template.key("spec").key("manualSelector"),
            true,
            &["nil", "false"],
        ));
    }
    if has(inner, "selector") {
        errors.push(FieldError::invalid(
            template.key("spec").key("selector"),
            &inner["selector"],
            "`selector` will be auto-generated",
        ));
    }
    job_spec(inner, &template.key("spec"), errors);
}

/// Five fields, or one of the words that stand for them.
fn schedule(text: &str, path: &Path, errors: &mut Errors) {
    const WORDS: [&str; 7] =
        ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    const FIELDS: [(i64, i64, &[&str]); 5] = [
        (0, 59, &[]),
        (0, 23, &[]),
        (1, 31, &[]),
        (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
        (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    ];
    if text.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(path, text, why));
        return;
    }
    if WORDS.contains(&text) || text.strip_prefix("@every ").is_some_and(|rest| !rest.trim().is_empty()) {
        return;
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let why = format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" "));
        errors.push(FieldError::invalid(path, text, &why));
        return;
    }
    for (field, (least, most, words)) in fields.into_iter().zip(FIELDS) {
        let number = |part: &str| -> Option<i64> {
            let word = words.iter().position(|word| part.eq_ignore_ascii_case(word));
            let number = match word {
                Some(at) => least + at as i64,
                None => part.parse().ok()?,
            };
            (least..=most).contains(&number).then_some(number)
        };
        let fits = |part: &str| {
            let (range, step) =
                part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            let step_fits = step.is_none_or(|step| step.parse::<u32>().is_ok_and(|step| step > 0));
            let range_fits = match (range, range.split_once('-')) {
                ("*" | "?", _) => true,
                (_, Some((from, to))) => matches!((number(from), number(to)), (Some(a), Some(b)) if a <= b),
                (one, None) => number(one).is_some(),
            };
            step_fits && range_fits
        };
        if !field.split(',').all(fits) {
            let why = format!("failed to parse field {field:?}: not within {least} and {most}");
            errors.push(FieldError::invalid(path, text, &why));
        }
    }
}
