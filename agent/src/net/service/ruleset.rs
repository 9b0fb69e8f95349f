//! The table: its fixed chains as text, and its elements, which are all that Services change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use super::super::Cidr;
use super::compile::{Back, EXACT, Front, LARGE, Protocol, View, slots};

/// Ours alone; holds everything we do to packets.
pub(in crate::net) const TABLE: &str = "ip kontiki";
/// Bit of the connection mark: this connection leaves with the node's address.
const MASQUERADE: u32 = 0x4000;

type Elements = BTreeMap<String, String>;

/// How a front is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dispatch {
    pub masquerade: bool,
    /// Seconds.
    pub sticky: Option<u32>,
    /// Only for clients on nodes and in pods.
    pub inside_only: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Deny {
    /// The client is told at once.
    Refuse,
    Drop,
}

/// Everything the kernel is to know.
#[derive(Clone, Debug)]
pub(in crate::net) struct Ruleset {
    pub(super) view: View,
    /// Front → chain.
    svc: Elements,
    /// The same for clients from inside alone.
    near: Elements,
    /// Front and slot → endpoint.
    eps: Elements,
    /// Front → refuse or drop.
    deny: Elements,
    /// For sticky services: front and slot → endpoint's address as a number; that and front → endpoint; front → timeout.
    draw: Elements,
    held: Elements,
    keep: Elements,
    timeouts: BTreeSet<u32>,
    pub(super) hairpin: BTreeSet<Ipv4Addr>,
    pub(super) inside: BTreeSet<Cidr>,
    /// UDP has no end of connection: what is removed here is removed from connection tracking as well.
    pub(super) udp: BTreeMap<Front, BTreeSet<Back>>,
}

impl Ruleset {
    pub(super) fn new(view: View) -> Ruleset {
        Ruleset {
            view,
            svc: Elements::new(),
            near: Elements::new(),
            eps: Elements::new(),
            deny: Elements::new(),
            draw: Elements::new(),
            held: Elements::new(),
            keep: Elements::new(),
            // Upstream's default is part of every table, so that the first sticky service does not reload it.
            timeouts: [10_800].into(),
            hairpin: BTreeSet::new(),
            inside: BTreeSet::new(),
            udp: BTreeMap::new(),
        }
    }

    fn taken(&self, front: Front) -> bool {
        let front = front.to_string();
        self.svc.contains_key(&front) || self.near.contains_key(&front) || self.deny.contains_key(&front)
    }

    pub(super) fn serve(&mut self, front: Front, backs: &[Back], dispatch: Dispatch) {
        if self.taken(front) {
            return;
        }
        let (size, filled) = slots(backs);
        let kind = match (dispatch.masquerade, dispatch.sticky.is_some()) {
            (false, false) => 'n',
            (true, false) => 'm',
            (false, true) => 'a',
            (true, true) => 'b',
        };
        for (slot, back) in filled {
            if dispatch.sticky.is_some() {
                let number = u32::from(back.address);
                self.draw.insert(format!("{front} . {slot}"), format!("{number:#010x}"));
                self.held.insert(format!("{number:#010x} . {front}"), back.to_string());
            } else {
                self.eps.insert(format!("{front} . {slot}"), back.to_string());
            }
        }
        if let Some(seconds) = dispatch.sticky {
            self.keep.insert(front.to_string(), format!("goto t{seconds}"));
            self.timeouts.insert(seconds);
        }
        let map = if dispatch.inside_only { &mut self.near } else { &mut self.svc };
        map.insert(front.to_string(), format!("goto {kind}{size}"));
        if front.protocol == Protocol::Udp {
            self.udp.insert(front, backs.iter().copied().collect());
        }
    }

    pub(super) fn deny(&mut self, front: Front, deny: Deny) {
        // A front for clients from inside may be denied to all others.
        let key = front.to_string();
        if self.svc.contains_key(&key) || self.deny.contains_key(&key) {
            return;
        }
        let verdict = match deny {
            Deny::Refuse => "goto refuse",
            Deny::Drop => "drop",
        };
        self.deny.insert(key, verdict.to_owned());
    }

    fn maps(&self) -> [(&'static str, &'static str, Elements); 10] {
        let set = |keys: &mut dyn Iterator<Item = String>| keys.map(|key| (key, String::new())).collect();
        [
            ("map", "svc", self.svc.clone()),
            ("map", "near", self.near.clone()),
            ("map", "eps", self.eps.clone()),
            ("map", "deny", self.deny.clone()),
            ("map", "draw", self.draw.clone()),
            ("map", "held", self.held.clone()),
            ("set", "holds", set(&mut self.held.keys().cloned())),
            ("map", "keep", self.keep.clone()),
            ("set", "hairpin", set(&mut self.hairpin.iter().map(|address| format!("{address} . {address}")))),
            ("set", "inside", set(&mut self.disjoint_inside().iter().map(ToString::to_string))),
        ]
    }

    /// Intervals in a set may not overlap.
    fn disjoint_inside(&self) -> BTreeSet<Cidr> {
        let covered = |one: &Cidr| {
            let within = |other: &&Cidr| other.prefix() < one.prefix() && other.contains(one.network());
            self.inside.iter().any(|other| within(&other))
        };
        self.inside.iter().filter(|one| !covered(one)).copied().collect()
    }

    /// Names the chains of this ruleset; tables of one schema differ in elements alone.
    pub(super) fn schema(&self) -> String {
        let digest = Sha256::digest(self.chains().as_bytes());
        format!("schema_{}", hex::encode(&digest[..8]))
    }

    /// A transaction that replaces whatever table there is.
    pub(in crate::net) fn load(&self) -> String {
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
        script += &self.chains();
        let _ = write!(script, "  chain {} {{\n  }}\n}}\n", self.schema());
        for (_, name, elements) in self.maps() {
            command(&mut script, "add", name, elements.iter());
        }
        script
    }

    /// A transaction that makes the elements of a table of this schema ours, whatever they are. What clients are stuck
    /// to is kept.
    pub(in crate::net) fn take_over(&self) -> String {
        let mut script = String::new();
        for (kind, name, elements) in self.maps() {
            let _ = writeln!(script, "flush {kind} {TABLE} {name}");
            command(&mut script, "add", name, elements.iter());
        }
        script
    }

    /// A transaction from `previous` to this, by changed elements alone; empty when nothing changed. Both must be of
    /// one schema.
    pub(in crate::net) fn change_from(&self, previous: &Ruleset) -> String {
        let mut script = String::new();
        for ((_, name, new), (_, _, old)) in self.maps().into_iter().zip(previous.maps()) {
            let gone = old.iter().filter(|(key, value)| new.get(*key) != Some(value));
            let added = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
            command(&mut script, "delete", name, gone);
            command(&mut script, "add", name, added);
        }
        script
    }

    fn chains(&self) -> String {
        let View { node_ip, pod_cidr, service_cidr, cluster_dns, .. } = &self.view;
        let mut text = format!(
            "  map svc {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
  map near {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
  map deny {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
  map keep {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
  map eps {{ typeof meta l4proto . ip daddr . th dport . numgen random mod 2 : ip daddr . th dport; }}
  map draw {{ typeof meta l4proto . ip daddr . th dport . numgen random mod 2 : meta mark; }}
  map held {{ typeof meta mark . meta l4proto . ip daddr . th dport : ip daddr . th dport; }}
  set holds {{ typeof meta mark . meta l4proto . ip daddr . th dport; }}
  map stuck {{
    typeof ip saddr . meta l4proto . ip daddr . th dport : meta mark
    flags dynamic,timeout
    size 65536
    timeout 3h
  }}
  set hairpin {{ type ipv4_addr . ipv4_addr; }}
  set inside {{ type ipv4_addr; flags interval; }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }}
  chain services {{
    meta l4proto . ip daddr . th dport vmap @svc
    ip saddr @inside meta l4proto . ip daddr . th dport vmap @near
  }}
  chain arriving {{
    type nat hook prerouting priority dstnat
    jump services
  }}
  chain sending {{
    type nat hook output priority -100
    jump services
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat
    ct status dnat ip saddr . ip daddr @hairpin snat to {node_ip}
    ct mark & {MASQUERADE:#x} != 0 snat to {node_ip}
    ip saddr {pod_cidr} ip daddr != @inside fib daddr type != local masquerade
  }}
  chain unserved {{
    meta l4proto . ip daddr . th dport vmap @deny
    ip daddr {service_cidr} ip daddr != {cluster_dns} goto refuse
  }}
  chain unserved_input {{
    type filter hook input priority filter
    jump unserved
  }}
  chain unserved_forward {{
    type filter hook forward priority filter
    jump unserved
  }}
  chain unserved_output {{
    type filter hook output priority filter
    jump unserved
  }}
"
        );
        for seconds in &self.timeouts {
            let _ = write!(
                text,
                "  chain t{seconds} {{
    update @stuck {{ ip saddr . meta l4proto . ip daddr . th dport timeout {seconds}s : meta mark }}
    dnat to meta mark . meta l4proto . ip daddr . th dport map @held
  }}
"
            );
        }
        for n in (1..=EXACT).chain([LARGE]) {
            let _ = write!(
                text,
                "  chain n{n} {{
    dnat to meta l4proto . ip daddr . th dport . numgen random mod {n} map @eps
  }}
  chain m{n} {{
    ct mark set ct mark | {MASQUERADE:#x}
    goto n{n}
  }}
  chain a{n} {{
    meta mark set ip saddr . meta l4proto . ip daddr . th dport map @stuck
    meta mark . meta l4proto . ip daddr . th dport != @holds meta mark set meta l4proto . ip daddr . th dport . numgen random mod {n} map @draw
    meta l4proto . ip daddr . th dport vmap @keep
  }}
  chain b{n} {{
    ct mark set ct mark | {MASQUERADE:#x}
    goto a{n}
  }}
"
            );
        }
        text
    }
}

/// One `add element` or `delete element` for all of `elements`; nothing for none.
fn command<'a>(
    script: &mut String,
    verb: &str,
    name: &str,
    elements: impl Iterator<Item = (&'a String, &'a String)>,
) {
    let mut elements = elements.peekable();
    if elements.peek().is_none() {
        return;
    }
    let _ = write!(script, "{verb} element {TABLE} {name} {{");
    for (n, (key, value)) in elements.enumerate() {
        script.push_str(if n == 0 { " " } else { ", " });
        script.push_str(key);
        // A delete goes by the key alone.
        if verb == "add" && !value.is_empty() {
            let _ = write!(script, " : {value}");
        }
    }
    script.push_str(" }\n");
}
