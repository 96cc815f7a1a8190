/* A plugin for mosquitto 2.x: devices that never subscribe get what is published on their `down`.
 *
 * Stock XiaoZhi firmware sends no SUBSCRIBE, and a broker delivers to subscribers only. This plugin notes the client id
 * of each device when it publishes on <root>/<dev>/up, and gives that client a copy (QoS 0) of what others publish on
 * <root>/<dev>/down, unless it has subscribed. Access rules are checked before the plugin hears of a message; a client
 * counts as the device only when its user name is <dev>.
 *
 * Build:       cc -O2 -Wall -Wextra -fPIC -shared -o xiaozhi_push.so xiaozhi_push.c
 *              (Debian: apt-get install gcc libmosquitto-dev mosquitto-dev)
 * mosquitto:   plugin /path/to/xiaozhi_push.so
 *              plugin_opt_root xiaozhi
 */

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>

#define NODE_LENGTH 12
#define BUCKETS 4096
#define UNUSED(x) (void)(x)

struct device {
	struct device *next;
	char *client_id;
	bool subscribed;
	char node[NODE_LENGTH + 1];
};

static mosquitto_plugin_id_t *plugin_id;
static struct device *buckets[BUCKETS];
static char *root;

/* The node in "<root>/<node>/<leaf>", NULL when the topic is another one. */
static const char *node_of(const char *topic, const char *leaf)
{
	size_t length = strlen(root);
	if(strncmp(topic, root, length) || topic[length] != '/') return NULL;
	const char *node = topic + length + 1;
	if(strspn(node, "0123456789abcdef") != NODE_LENGTH || node[NODE_LENGTH] != '/') return NULL;
	return strcmp(node + NODE_LENGTH + 1, leaf) ? NULL : node;
}

static struct device **bucket_of(const char *node)
{
	unsigned hash = 5381;
	for(int i = 0; i < NODE_LENGTH; i++) hash = hash * 33 + (unsigned char)node[i];
	return &buckets[hash % BUCKETS];
}

static struct device *find(const char *node)
{
	struct device *one = *bucket_of(node);
	while(one && memcmp(one->node, node, NODE_LENGTH)) one = one->next;
	return one;
}

/* The entry of the device that this client is, made when there is none; NULL when it is no device or memory is short. */
static struct device *entry_of(struct mosquitto *client)
{
	const char *user = mosquitto_client_username(client), *client_id = mosquitto_client_id(client);
	if(!user || !client_id || strlen(user) != NODE_LENGTH || strspn(user, "0123456789abcdef") != NODE_LENGTH) return NULL;
	struct device *one = find(user);
	if(one && !strcmp(one->client_id, client_id)) return one;
	char *copy = strdup(client_id);
	if(!copy) return NULL;
	if(!one){
		one = calloc(1, sizeof(*one));
		if(!one){
			free(copy);
			return NULL;
		}
		memcpy(one->node, user, NODE_LENGTH);
		one->next = *bucket_of(user);
		*bucket_of(user) = one;
	}
	free(one->client_id);
	one->client_id = copy;
	one->subscribed = false;
	return one;
}

static int on_message(int event, void *data, void *userdata)
{
	struct mosquitto_evt_message *message = data;
	const char *node;
	UNUSED(event);
	UNUSED(userdata);
	if((node = node_of(message->topic, "up"))){
		const char *user = mosquitto_client_username(message->client);
		if(user && !strncmp(user, node, NODE_LENGTH)) entry_of(message->client);
	}else if((node = node_of(message->topic, "down"))){
		struct device *one = find(node);
		if(one && !one->subscribed)
			mosquitto_broker_publish_copy(one->client_id, message->topic, (int)message->payloadlen, message->payload, 0, false, NULL);
	}
	return MOSQ_ERR_SUCCESS;
}

/* A look at subscriptions; the decision stays with the access rules. */
static int on_acl_check(int event, void *data, void *userdata)
{
	struct mosquitto_evt_acl_check *check = data;
	UNUSED(event);
	UNUSED(userdata);
	if(check->access == MOSQ_ACL_SUBSCRIBE || check->access == MOSQ_ACL_UNSUBSCRIBE){
		struct device *one = entry_of(check->client);
		bool matches = false;
		if(one){
			char own[256];
			size_t length = strlen(root);
			if(length + NODE_LENGTH + 7 < sizeof(own)){
				memcpy(own, root, length);
				own[length] = '/';
				memcpy(own + length + 1, one->node, NODE_LENGTH);
				memcpy(own + length + 1 + NODE_LENGTH, "/down", 6);
				if(!mosquitto_topic_matches_sub(check->topic, own, &matches) && matches)
					one->subscribed = check->access == MOSQ_ACL_SUBSCRIBE;
			}
		}
	}
	return MOSQ_ERR_PLUGIN_DEFER;
}

static int on_disconnect(int event, void *data, void *userdata)
{
	struct mosquitto_evt_disconnect *gone = data;
	const char *user = mosquitto_client_username(gone->client), *client_id = mosquitto_client_id(gone->client);
	UNUSED(event);
	UNUSED(userdata);
	if(user && client_id && strlen(user) == NODE_LENGTH){
		struct device *one = find(user);
		/* The entry stays: a device that comes back under the same client id is reached without having spoken. */
		if(one && !strcmp(one->client_id, client_id)) one->subscribed = false;
	}
	return MOSQ_ERR_SUCCESS;
}

int mosquitto_plugin_version(int count, const int *versions)
{
	for(int i = 0; i < count; i++) if(versions[i] == 5) return 5;
	return -1;
}

int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **userdata, struct mosquitto_opt *options, int count)
{
	const char *given = "xiaozhi";
	UNUSED(userdata);
	for(int i = 0; i < count; i++) if(!strcmp(options[i].key, "root")) given = options[i].value;
	plugin_id = identifier;
	root = strdup(given);
	if(!root) return MOSQ_ERR_NOMEM;
	int rc = mosquitto_callback_register(plugin_id, MOSQ_EVT_MESSAGE, on_message, NULL, NULL);
	if(!rc) rc = mosquitto_callback_register(plugin_id, MOSQ_EVT_ACL_CHECK, on_acl_check, NULL, NULL);
	if(!rc) rc = mosquitto_callback_register(plugin_id, MOSQ_EVT_DISCONNECT, on_disconnect, NULL, NULL);
	return rc;
}

int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int count)
{
	UNUSED(userdata);
	UNUSED(options);
	UNUSED(count);
	mosquitto_callback_unregister(plugin_id, MOSQ_EVT_MESSAGE, on_message, NULL);
	mosquitto_callback_unregister(plugin_id, MOSQ_EVT_ACL_CHECK, on_acl_check, NULL);
	mosquitto_callback_unregister(plugin_id, MOSQ_EVT_DISCONNECT, on_disconnect, NULL);
	for(int i = 0; i < BUCKETS; i++){
		for(struct device *one = buckets[i], *next; one; one = next){
			next = one->next;
			free(one->client_id);
			free(one);
		}
		buckets[i] = NULL;
	}
	free(root);
	root = NULL;
	return MOSQ_ERR_SUCCESS;
}
