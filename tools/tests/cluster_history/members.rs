//! Who belongs to the cluster, and who leads it, changes under load.

use crate::load::{client, run};
use beachdb::base::NodeId;
use beachdb::client::AdminRequest;

#[test]
fn leadership_moves_and_the_leader_is_removed_under_load() {
    run("transfers", 4, |cluster, load| {
        let all: Vec<String> = cluster.nodes.iter().map(|node| node.listen.to_string()).collect();
        let mut operator = client(&all);
        for _ in 0..2 {
            for node in 1..=4 {
                if cluster.leader() != node {
                    let transfer = AdminRequest::Transfer(Some(NodeId(node)));
                    operator.admin(&transfer).expect("it is up to date");
                }
                load.goes_on();
            }
        }
        let old = cluster.leader();
        operator.admin(&AdminRequest::Remove(NodeId(old))).expect("it is one of four");
        // It runs on for a while, and is asked, but is no member.
        load.goes_on();
        load.goes_on();
        cluster.kill(old);
        assert_ne!(cluster.leader(), old);
        load.goes_on();
    });
}
