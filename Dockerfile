# The base of the image: Node's LTS on a slim Debian. "npm run image" passes it pinned by digest.
ARG NODE_IMAGE=docker.io/library/node:26-trixie-slim
# Where npm runs; another image may bring a registry's address and certificates, and leaves no trace.
ARG BUILD_IMAGE=${NODE_IMAGE}

FROM ${BUILD_IMAGE} AS packages
WORKDIR /app
COPY package.json package-lock.json ./

# Install scripts are other people's programs; what is built and shipped here needs none.
FROM packages AS build
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src src
RUN npm run build

FROM packages AS production
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund
COPY --from=build /app/dist dist
# Types, sources and maps are for those who compile. Licences, package.json and the lock file stay, for SBOM tools.
RUN find dist node_modules -type f \( -name '*.map' -o -name '*.ts' -o -name '*.cts' -o -name '*.mts' \) -delete
COPY sql sql
COPY LICENSE ./
RUN chmod -R a+rX,go-w .

# The first process of a container is deaf to SIGTERM until it listens, as the relay does once it runs and no other
# command ever does. Behind tini each ends at once.
FROM ${BUILD_IMAGE} AS init
RUN command -v tini-static || { apt-get update && apt-get install --yes --no-install-recommends tini; }

FROM ${NODE_IMAGE}
# Nothing is installed at run time, and no program starts another.
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack \
    /usr/local/bin/yarn /usr/local/bin/yarnpkg /opt/yarn* /root/.npm /root/.npmrc
WORKDIR /app
COPY --from=init /usr/bin/tini-static /usr/local/bin/tini
COPY --from=production /app ./
# For `kubectl exec … -- outrider check`.
RUN ln -s /app/dist/cli/main.js /usr/local/bin/outrider
ENV NODE_ENV=production
USER 65532:65532
EXPOSE 9474

# Of the relay; a port that only the file of settings names must be named here, too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["node", "-e", \
    "fetch(`http://127.0.0.1:${process.env.OUTRIDER_HTTP_PORT || 9474}/livez`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["tini", "-s", "--", "node", "/app/dist/cli/main.js"]
CMD ["relay"]

ARG BASE_NAME=
ARG BASE_DIGEST=
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="Outrider" \
      org.opencontainers.image.description="Carries events out of a Postgres outbox table into Redis Streams" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
