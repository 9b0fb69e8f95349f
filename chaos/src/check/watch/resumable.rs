//! A stream that begins where another ended goes on there: nothing before it again, nothing after it left out.

use super::super::{Evidence, Guarantee, Violation};
use super::{listed_again, reliable, streams};
use crate::history::Item;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-resumable",
    about: "A watcher that lost its stream asks any server for everything after the last revision it has. Here the new stream \
            showed something it had asked to leave out, or began with a gap: a broken connection changed what the watcher \
            believes.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        for (_, item) in stream.items {
            let (revision, allowed) = match item {
                Item::Changes { revision, .. } => (*revision, stream.after + 1),
                Item::Bookmark(revision) => (*revision, stream.after),
                _ => continue,
            };
            if revision < allowed {
                violations.push(format!("{} went back to {revision}: {item:?}", stream.name()));
            }
        }
        if stream.number > 0
            && let Some((first, _)) = stream.changes().next()
        {
            violations.extend(reliable::left_out(evidence, &stream, first));
        }
    }
    for watched in &evidence.history.watches {
        for pair in watched.items.windows(2) {
            if listed_again(&pair[0].1) && matches!(pair[1].1, Item::Opened { .. }) {
                violations
                    .push(format!("watcher {} went on where it was told to list again", watched.watcher));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;

    #[test]
    fn a_resumed_stream_goes_on_where_it_was() {
        let story = || {
            let story = Story::new().put("a", 1).put("a", 2).put("a", 3);
            story.watch("", 1).event(2, "a", Some(1)).resumed(2)
        };
        story().event(3, "a", Some(2)).event(4, "a", Some(3)).passes(&GUARANTEE);
        story().event(4, "a", Some(3)).fails(&GUARANTEE, "left out a=Some(2)");
        story().event(2, "a", Some(1)).fails(&GUARANTEE, "went back to 2");
        story().bookmark(1).fails(&GUARANTEE, "went back to 1");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
