//! There is one history: whoever tells what a key held at a revision, client, watcher or server, tells the same.

use super::{Evidence, Guarantee, Violation};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "one-history",
    about: "A revision is one change of the whole cluster. Two witnesses below tell different things of one revision, or place \
            one write at two: histories have split, or a server made up its own.",
    check: |evidence: &Evidence| -> Vec<Violation> { evidence.truth.contradictions.clone() },
};

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;

    #[test]
    fn witnesses_must_agree() {
        let story = || Story::new().put("a", 1).revision(5);
        story().watch("", 1).event(5, "a", Some(1)).passes(&GUARANTEE);
        story().watch("", 1).event(5, "a", Some(2)).fails(&GUARANTEE, "a=2");
        story().watch("", 1).event(6, "a", Some(1)).fails(&GUARANTEE, "at revision 6");
        story().watch("", 1).event(5, "a", None).fails(&GUARANTEE, "a=nothing");
        story().delete("a").revision(5).fails(&GUARANTEE, "a=nothing");
    }

    #[test]
    fn a_delete_of_nothing_is_told_the_current_revision() {
        Story::new().put("b", 1).revision(5).delete("a").revision(5).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
