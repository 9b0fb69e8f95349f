//! Compiles the gRPC contract.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto/kontiki.proto");
    tonic_prost_build::configure().bytes(".").compile_protos(&["proto/kontiki.proto"], &["proto"])
}
