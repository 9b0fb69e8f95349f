//! One server's connection to another: calls and streams over a [`Wire`].

use super::*;

pub(super) struct SimConduit {
    pub(super) net: Net,
    pub(super) wire: Arc<Wire>,
}

impl Drop for SimConduit {
    fn drop(&mut self) {
        // Whoever lets go of a connection closes it.
        self.wire.ended[0].cancel();
        let end = self.wire.ended[1].clone();
        let [from, to] = self.wire.ends;
        self.net.post(None, from, to, None, "hang up", self.wire.id, Box::new(move || end.cancel()));
    }
}

impl SimConduit {
    /// Runs `work` as a task of the other server when the message arrives there, and brings its result back.
    fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        digest: u64,
        work: impl FnOnce(Arc<dyn PeerService>) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let (net, wire) = (self.net.clone(), Arc::clone(&self.wire));
        Box::pin(async move {
            let ended = wire.ended[0].clone();
            if ended.is_cancelled() {
                return Err(unreachable(BROKEN));
            }
            let (said, heard) = oneshot::channel();
            let [from, to] = wire.ends;
            let act = {
                let (net, wire) = (net.clone(), Arc::clone(&wire));
                move || {
                    let Some((service, runtime)) = net.serving(to).filter(|_| !wire.is_over()) else {
                        wire.lost.lock().push(Box::new(said));
                        return;
                    };
                    runtime.spawn(async move {
                        let answer = work(service).await;
                        let back = Arc::clone(&wire);
                        let arrive = move || {
                            if back.ended[0].is_cancelled() {
                                return;
                            }
                            drop(said.send(answer));
                        };
                        net.post(Some(&wire), to, from, None, "answer", digest, Box::new(arrive));
                    });
                }
            };
            net.post(Some(&wire), from, to, None, what, digest, Box::new(act));
            tokio::select! {
                biased;
                answer = heard => match answer {
                    Ok(answer) => answer,
                    // The task that would have answered has gone with its server: the reset is on its way.
                    Err(_) => { ended.cancelled().await; Err(lost(BROKEN)) }
                },
                () = ended.cancelled() => Err(lost(BROKEN)),
            }
        })
    }

    /// Carries a stream to the other server; the receiver reads it as long as the connection lasts.
    fn carry(&self, what: &'static str, mut messages: Messages) -> (Messages, CancellationToken) {
        let (arrived, mut arriving) = mpsc::unbounded_channel::<Result<pb::PeerMessage, PeerError>>();
        let (net, wire) = (self.net.clone(), Arc::clone(&self.wire));
        let given_up = CancellationToken::new();
        let (stop, ended, [from, to]) = (given_up.clone(), wire.ended[0].clone(), wire.ends);
        let far_end = wire.ended[1].clone();
        tokio::spawn(async move {
            let order = Order::default();
            loop {
                let message = tokio::select! {
                    biased;
                    () = ended.cancelled() => break,
                    () = stop.cancelled() => break,
                    message = messages.next() => message,
                };
                let Some(message) = message else { break };
                let digest = message.as_ref().map_or(0, digest);
                let arrived = arrived.clone();
                let act = move || drop(arrived.send(message));
                net.post(Some(&wire), from, to, Some(&order), what, digest, Box::new(act));
            }
            // The end of the stream travels behind its messages.
            net.post(Some(&wire), from, to, Some(&order), "end", 0, Box::new(move || drop(arrived)));
        });
        let stream = futures::stream::poll_fn(move |cx| arriving.poll_recv(cx));
        let broken = async move {
            far_end.cancelled().await;
        };
        (ending_with(stream.boxed(), Box::pin(broken)), given_up)
    }
}

/// The stream, cut short by an error when the connection ends.
fn ending_with(messages: Messages, broken: BoxFuture<'static, ()>) -> Messages {
    let state = Some((messages, broken));
    futures::stream::unfold(state, |state| async move {
        let (mut messages, mut broken) = state?;
        tokio::select! {
            biased;
            message = messages.next() => message.map(|message| (message, Some((messages, broken)))),
            () = &mut broken => Some((Err(lost(BROKEN)), None)),
        }
    })
    .boxed()
}

impl PeerService for SimConduit {
    fn append(&self, requests: Messages) -> Answer<Messages> {
        let (net, wire) = (self.net.clone(), Arc::clone(&self.wire));
        if wire.ended[0].is_cancelled() {
            return Box::pin(async { Err(unreachable(BROKEN)) });
        }
        let (requests, given_up) = self.carry("append", requests);
        let given_up = given_up.drop_guard();
        let (said, answers) = mpsc::unbounded_channel::<Result<pb::PeerMessage, PeerError>>();
        let [from, to] = wire.ends;
        let opened = self.call("open", 0, move |service| {
            Box::pin(async move {
                let mut answers = service.append(requests).await?;
                tokio::spawn(async move {
                    let order = Order::default();
                    let over = wire.ended[1].clone();
                    loop {
                        let answer = tokio::select! {
                            biased;
                            () = over.cancelled() => break,
                            answer = answers.next() => answer,
                        };
                        let Some(answer) = answer else { break };
                        let digest = answer.as_ref().map_or(0, digest);
                        let said = said.clone();
                        let act = move || drop(said.send(answer));
                        net.post(Some(&wire), to, from, Some(&order), "appended", digest, Box::new(act));
                    }
                    net.post(Some(&wire), to, from, Some(&order), "end", 0, Box::new(move || drop(said)));
                });
                Ok(())
            })
        });
        let ended = self.wire.ended[0].clone();
        Box::pin(async move {
            opened.await?;
            let mut answers = answers;
            let stream = futures::stream::poll_fn(move |cx| {
                // Held for as long as somebody reads the answers.
                let _ = &given_up;
                answers.poll_recv(cx)
            });
            Ok(ending_with(stream.boxed(), Box::pin(async move { ended.cancelled().await })))
        })
    }

    fn snapshot(&self, parts: Messages) -> Answer<pb::PeerMessage> {
        let (parts, given_up) = self.carry("snapshot", parts);
        let given_up = given_up.drop_guard();
        let answer = self.call("open", 1, move |service| service.snapshot(parts));
        Box::pin(async move {
            let answer = answer.await;
            drop(given_up);
            answer
        })
    }

    fn ask(&self, call: Call, message: pb::PeerMessage) -> Answer<pb::PeerMessage> {
        let digest = digest(&message);
        let what = match call {
            Call::Vote => "vote",
            Call::PreVote => "pre-vote",
            Call::TransferLeader => "transfer",
            Call::Forward => "forward",
        };
        // Only what a sender may repeat arrives twice.
        if matches!(call, Call::Vote | Call::PreVote)
            && let Some(after) = self.net.doubled(self.wire.ends[0], self.wire.ends[1])
        {
            let (net, to, message) = (self.net.clone(), self.wire.ends[1], message.clone());
            self.net.later(after, move || {
                if let Some((service, runtime)) = net.serving(to) {
                    runtime.spawn(async move { drop(service.ask(call, message).await) });
                }
            });
        }
        self.call(what, digest, move |service| service.ask(call, message))
    }

    fn status(&self) -> Answer<Introduction> {
        self.call("status", 0, |service| service.status())
    }

    fn admit(&self, request: pb::JoinRequest) -> Answer<pb::JoinReply> {
        self.call("admit", 0, move |service| service.admit(request))
    }
}

impl Conduit for SimConduit {
    fn closed(&self) -> BoxFuture<'static, ()> {
        let ended = self.wire.ended[0].clone();
        Box::pin(async move { ended.cancelled().await })
    }
}
