//! Planted faults, clean histories, and histories of a correct model.

use super::super::story::Story;
use super::GUARANTEE;

#[test]
fn concurrent_operations_may_take_any_order() {
    let story = || Story::new().put("a", 1).at(0, 10).put("a", 2).at(1, 9);
    story().read("a", 1).at(11, 12).passes(&GUARANTEE);
    story().read("a", 2).at(11, 12).passes(&GUARANTEE);
    Story::new()
        .put("a", 1)
        .at(0, 1)
        .put("a", 2)
        .at(2, 10)
        .read("a", 1)
        .at(3, 4)
        .read("a", 2)
        .at(5, 6)
        .passes(&GUARANTEE);
}

#[test]
fn a_stale_read_is_found() {
    let story = || Story::new().put("a", 1).at(0, 1);
    story().put("a", 2).at(2, 3).read("a", 1).at(4, 5).fails(&GUARANTEE, "Read");
    story().put("a", 2).at(2, 10).read("a", 2).at(3, 4).read("a", 1).at(5, 6).fails(&GUARANTEE, "");
}

#[test]
fn a_lost_write_may_happen_late_or_never_and_not_twice() {
    let story = || Story::new().put("a", 1).at(0, 1).put("a", 2).lost(2).read("a", 1).at(3, 4);
    story().passes(&GUARANTEE);
    story().read("a", 2).at(5, 6).passes(&GUARANTEE);
    story().read("a", 2).at(5, 6).read("a", 1).at(7, 8).fails(&GUARANTEE, "");
    let twice = story().read("a", 2).at(5, 6).put("a", 3).at(7, 8).read("a", 2).at(9, 10);
    twice.fails(&GUARANTEE, "");
}

#[test]
fn a_guard_that_was_ignored_is_found() {
    let story = || Story::new().put("a", 1).at(0, 1).revision(5).swap("a", 5, 2).at(2, 3).revision(6);
    story().swap("a", 5, 3).at(4, 5).revision(7).fails(&GUARANTEE, "");
    story().swap("a", 6, 3).at(4, 5).revision(7).passes(&GUARANTEE);
    story().swap("a", 0, 3).at(4, 5).revision(7).fails(&GUARANTEE, "");
}

#[test]
fn keys_of_one_transaction_change_together() {
    let story = || Story::new().put_both(("a", 1), ("b", 2)).at(0, 10);
    story().read("a", 1).at(1, 2).read("b", 2).at(3, 4).passes(&GUARANTEE);
    story().read("a", 1).at(1, 2).absent("b").at(3, 4).fails(&GUARANTEE, "");
    story().range(&[("a", 1)]).at(3, 4).fails(&GUARANTEE, "");
    story().range(&[("a", 1), ("b", 2)]).at(3, 4).passes(&GUARANTEE);
}

#[test]
fn a_conflict_must_be_one() {
    let story = || Story::new().put("a", 1).at(0, 1).revision(5);
    story().swap("a", 0, 2).conflict(5, Some((1, 5))).at(2, 3).passes(&GUARANTEE);
    story().swap("a", 5, 2).conflict(5, Some((1, 5))).at(2, 3).fails(&GUARANTEE, "");
    story().swap("a", 0, 2).conflict(5, None).at(2, 3).fails(&GUARANTEE, "");
}

#[test]
fn a_lease_ends_once_and_takes_its_keys() {
    let story = || Story::new().grant(7, 100).at(0, 1).put_leased("a", 1, 7).at(2, 3);
    story().absent("a").at(200, 201).passes(&GUARANTEE);
    story().absent("a").at(200, 201).read("a", 1).at(202, 203).fails(&GUARANTEE, "");
    story().absent("a").at(200, 201).put_leased("a", 2, 7).at(202, 203).fails(&GUARANTEE, "");
    Story::new().put("a", 1).at(2, 3).absent("a").at(200, 201).fails(&GUARANTEE, "");
}

#[test]
fn a_lost_delete_may_explain_absence() {
    let story = || Story::new().put("a", 1).at(0, 1);
    story().delete("a").lost(2).absent("a").at(4, 5).passes(&GUARANTEE);
    story().delete("a").lost(6).absent("a").at(4, 5).fails(&GUARANTEE, "");
    story().delete("a").lost(2).absent("a").at(4, 5).read("a", 1).at(6, 7).fails(&GUARANTEE, "");
}

/// A true history of thousands of operations takes no time: the search must not explode on what is well.
#[test]
fn a_long_clean_history_needs_no_search() {
    let mut story = Story::new();
    for n in 0..2000_u64 {
        story = story.put("a", n + 1).at(n * 10, n * 10 + 25).read("a", n + 1).at(n * 10 + 26, n * 10 + 27);
    }
    story.passes(&GUARANTEE);
}

#[test]
fn histories_of_a_correct_model_pass() {
    super::super::model::passes(&GUARANTEE);
}
