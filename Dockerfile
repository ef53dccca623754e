# The image: one static binary, nothing else. No shell, no libc, no certificates.
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/etcd-janitor:VERSION .
#
# Each platform compiles on its own (natively or emulated): ring's assembly is what goes wrong when it is cross-compiled.
# `scripts/image.sh` packs a binary that is already there and needs neither docker nor a base image.

FROM docker.io/library/rust:1.95.0-slim-bookworm AS build
# libprotobuf-dev, because protobuf-compiler alone lacks the files that etcd's own import.
# Unpinned: Debian keeps one version of each in a stable release, so a pin breaks the build with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libprotobuf-dev make musl-tools protobuf-compiler \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
# `make build` falls back to a binary that is not static, which could not start in an empty image: taken from where only a
# static one is.
RUN make build \
    && mkdir /out \
    && cp "target/$(uname -m)-unknown-linux-musl/release/etcd-janitor" LICENSE /out/

FROM scratch
ARG VERSION=unreleased
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="etcd-janitor" \
      org.opencontainers.image.description="Sidecar that compacts etcd and defragments its local member, one member of the cluster at a time" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /out/ /
# A number: `runAsNonRoot` cannot judge a name. Pods may set any other; nothing in the image belongs to anybody.
USER 65532:65532
# So that `kubectl exec POD -c etcd-janitor -- etcd-janitor status` finds it.
ENV PATH=/
EXPOSE 8379
# Kubernetes does not read this; docker and podman do. Not in the OCI format, which has no health check.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["/etcd-janitor", "probe", "livez"]
ENTRYPOINT ["/etcd-janitor"]
CMD ["run"]
