{{- /* The pod's spec. */}}
{{- define "asyncworker.pod" }}
      serviceAccountName: {{ include "asyncworker.serviceAccount" . }}
      automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
      # Services of the namespace become no variables: one called asyncworker would be taken for settings.
      enableServiceLinks: false
      {{- with .Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- with .Values.topologySpreadConstraints }}
      topologySpreadConstraints: {{- toYaml . | nindent 8 }}
      {{- end }}
      # The supervisor kills what does not end in the time to drain; Kubernetes only what is left then.
      terminationGracePeriodSeconds: {{ add .Values.drainTimeoutSeconds 30 }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- $user := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001 }}
      {{- $user = merge $user (dict "seccompProfile" (dict "type" "RuntimeDefault")) }}
      securityContext: {{- mergeOverwrite $user .Values.podSecurityContext | toYaml | nindent 8 }}
      {{- with .Values.initContainers }}
      initContainers: {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: worker
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          args:
            - --processes
            - {{ .Values.processes | quote }}
            - --concurrency
            - {{ .Values.concurrency | quote }}
            - --queues
            - {{ join "," .Values.queues | quote }}
            - --loglevel
            - INFO
          {{- with .Values.envFrom }}
          envFrom: {{- toYaml . | nindent 12 }}
          {{- end }}
          env:
            - name: ASYNCWORKER_BROKER_URL
              valueFrom: {secretKeyRef: {name: {{ .Values.existingSecret | quote }}, key: broker-url}}
            - name: ASYNCWORKER_RESULT_URL
              valueFrom: {secretKeyRef: {name: {{ .Values.existingSecret | quote }}, key: result-url}}
            - name: ASYNCWORKER_STORE_URL
              valueFrom: {secretKeyRef: {name: {{ .Values.existingSecret | quote }}, key: store-url}}
            - name: ASYNCWORKER_INCLUDE
              value: {{ join "," .Values.include | quote }}
            - name: ASYNCWORKER_DRAIN_TIMEOUT_S
              value: {{ .Values.drainTimeoutSeconds | quote }}
            - name: ASYNCWORKER_PROMETHEUS_PORT
              value: {{ .Values.metricsPort | quote }}
            - name: ASYNCWORKER_PROMETHEUS_ADDRESS
              value: "0.0.0.0"
            - name: ASYNCWORKER_HEALTH_FILE
              value: /run/asyncworker/health
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- range $number := until (int .Values.processes) }}
            - name: metrics-{{ $number }}
              containerPort: {{ add $.Values.metricsPort $number }}
            {{- end }}
          startupProbe:
            exec: {command: [asyncworker, health, --max-age, {{ .Values.probes.readinessMaxAgeSeconds | quote }}]}
            periodSeconds: 5
            timeoutSeconds: 20
            failureThreshold: 60
          readinessProbe:
            exec: {command: [asyncworker, health, --max-age, {{ .Values.probes.readinessMaxAgeSeconds | quote }}]}
            periodSeconds: 15
            timeoutSeconds: 20
            failureThreshold: 2
          livenessProbe:
            exec: {command: [asyncworker, health, --max-age, {{ .Values.probes.livenessMaxAgeSeconds | quote }}]}
            periodSeconds: 60
            timeoutSeconds: 30
            failureThreshold: 3
          resources: {{- toYaml .Values.resources | nindent 12 }}
          {{- $rights := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true }}
          {{- $rights = merge $rights (dict "capabilities" (dict "drop" (list "ALL"))) }}
          securityContext: {{- mergeOverwrite $rights .Values.securityContext | toYaml | nindent 12 }}
          volumeMounts:
            - {name: run, mountPath: /run/asyncworker}
            - {name: state, mountPath: /var/lib/asyncworker}
            - {name: tmp, mountPath: /tmp}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
        {{- with .Values.extraContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
        - name: run
          emptyDir: {medium: Memory, sizeLimit: 16Mi}
        - name: state
          emptyDir: {}
        - name: tmp
          emptyDir: {}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
