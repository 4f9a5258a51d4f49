//! Compiles the contract without `protoc`: protox parses it in Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/fairlead.proto");
    let descriptors = protox::compile(["proto/fairlead.proto"], ["proto"])?;
    tonic_prost_build::configure().codec_path("crate::Codec").compile_fds(descriptors)?;
    Ok(())
}
